package container

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"raptorpack/internal/archive"
)

// Writer writes one container. Not safe for concurrent use.
type Writer struct {
	zip      *archive.Writer
	manifest Manifest
	results  archive.Results
}

// NewWriter begins a container in one of the formats of rows.
func NewWriter(w io.Writer, format string) *Writer {
	return &Writer{zip: archive.NewWriter(w), manifest: Manifest{
		Version: Version, Kind: manifestKind, Format: format, Members: []Member{}, Problems: []Problem{},
	}}
}

// Level is how hard members that follow are deflated: 1 (the fastest, where it begins)
// to 9.
func (w *Writer) Level(level int) { w.zip.Level(level) }

// Document writes a member of indented JSON.
func (w *Writer) Document(name, kind string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	_, err = w.Member(Member{Path: name, Kind: kind}, time.Now(), func(out io.Writer) error {
		_, err := out.Write(append(data, '\n'))
		return err
	})
	return err
}

// Member writes a member and notes it. What it returns may be added to until the next
// one.
func (w *Writer) Member(m Member, at time.Time, write func(io.Writer) error) (*Member, error) {
	sum, err := w.zip.Member(m.Path, at, write)
	if err != nil {
		return nil, err
	}
	m.Size, m.SHA256 = sum.Size, sum.SHA256
	w.manifest.Members = append(w.manifest.Members, m)
	return &w.manifest.Members[len(w.manifest.Members)-1], nil
}

// Result makes names for the files of a result that no other result has.
func (w *Writer) Result(name string) string { return w.results.Free(ResultBase(name)) }

// Problem notes something that is missing, doubtful or damaged.
func (w *Writer) Problem(path, format string, args ...any) {
	w.manifest.Problems = append(w.manifest.Problems, Problem{path, fmt.Sprintf(format, args...)})
}

// Close writes the manifest and the directory; a container that was broken off has
// neither.
func (w *Writer) Close() (*Manifest, error) {
	m := &w.manifest
	m.Exported, m.Whole = time.Now().UTC(), len(m.Problems) == 0
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestName, err)
	}
	_, err = w.zip.Member(ManifestName, m.Exported, func(out io.Writer) error {
		_, err := out.Write(append(data, '\n'))
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, w.zip.Close()
}
