package inventory

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"raptorpack/artifacts"
	"raptorpack/ids"
	"raptorpack/internal/jsonlines"
)

// line is a tool, or a file that no tool names any more, in the snapshot file.
type line struct {
	Org        string       `json:"org,omitempty"`
	Name       string       `json:"name,omitempty"`
	Version    string       `json:"version,omitempty"`
	Definition *definition  `json:"definition,omitempty"`
	Setter     string       `json:"setter,omitempty"`
	Set        int64        `json:"set_us,omitempty"`
	File       *fileLine    `json:"file,omitempty"`
	Want       *wantLine    `json:"want,omitempty"`
	Failure    *failureLine `json:"failure,omitempty"`
	Unused     int64        `json:"unused_us,omitempty"` // since when; then File is all there is
	Served     bool         `json:"served,omitempty"`
}

type definition struct {
	Name             string `json:"name"`
	Version          string `json:"version,omitempty"`
	URL              string `json:"url,omitempty"`
	GithubProject    string `json:"github_project,omitempty"`
	GithubAssetRegex string `json:"github_asset_regex,omitempty"`
	ServeLocally     bool   `json:"serve_locally,omitempty"`
	ExpectedHash     string `json:"expected_hash,omitempty"`
	Filename         string `json:"filename,omitempty"`
}

type fileLine struct {
	Hash     string `json:"sha256"`
	Size     int64  `json:"size"`
	Path     string `json:"path"`
	Filename string `json:"filename,omitempty"`
	From     string `json:"from,omitempty"`
	Setter   string `json:"setter,omitempty"`
	At       int64  `json:"stored_us"`
}

type wantLine struct {
	Index      uint64     `json:"index"`
	Definition definition `json:"definition"`
	Setter     string     `json:"setter,omitempty"`
}

type failureLine struct {
	Text string `json:"text"`
	Hash string `json:"sha256,omitempty"`
	At   int64  `json:"failed_us"`
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func timeOf(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

func fileLineOf(f *File) *fileLine {
	if f == nil {
		return nil
	}
	return &fileLine{f.Hash, f.Size, f.Path, f.Filename, f.From, f.Setter, micros(f.At)}
}

func (l *fileLine) file() *File {
	if l == nil {
		return nil
	}
	return &File{l.Hash, l.Size, l.Path, l.Filename, l.From, l.Setter, timeOf(l.At)}
}

func lineOf(key Key, r *record) line {
	l := line{
		Org: key.Org.String(), Name: key.Name, Version: key.Version, Setter: r.Setter, Set: micros(r.Set), File: fileLineOf(r.File),
	}
	if r.Definition != nil {
		d := definition(*r.Definition)
		l.Definition = &d
	}
	if r.Want != nil {
		l.Want = &wantLine{r.Want.Index, definition(r.Want.Definition), r.Want.Setter}
	}
	if r.Failure != nil {
		l.Failure = &failureLine{r.Failure.Text, r.Failure.Hash, micros(r.Failure.At)}
	}
	return l
}

func (l *line) record() *record {
	r := &record{Setter: l.Setter, Set: timeOf(l.Set), File: l.File.file()}
	if l.Definition != nil {
		d := artifacts.Tool(*l.Definition)
		r.Definition = &d
	}
	if l.Want != nil {
		r.Want = &want{l.Want.Index, artifacts.Tool(l.Want.Definition), l.Want.Setter}
	}
	if l.Failure != nil {
		r.Failure = &Failure{l.Failure.Text, l.Failure.Hash, timeOf(l.Failure.At)}
	}
	return r
}

type view []line

// View implements replication.State.
func (r *Room) View() io.WriterTo {
	r.mu.RLock()
	defer r.mu.RUnlock()
	lines := make(view, 0, len(r.records)+len(r.unused))
	for _, key := range r.sortedKeys() {
		lines = append(lines, lineOf(key, r.records[key]))
	}
	for _, path := range slices.Sorted(maps.Keys(r.unused)) {
		u := r.unused[path]
		lines = append(lines, line{Org: u.Org.String(), File: fileLineOf(u.File), Unused: micros(u.At), Served: u.Served})
	}
	return lines
}

// WriteTo writes tools by org, name and version, then unused files by path.
func (v view) WriteTo(w io.Writer) (int64, error) { return jsonlines.Write(w, slices.Values(v)) }

// Restore implements replication.State.
func (r *Room) Restore(from io.Reader) error {
	fresh := New(r.o)
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			// A line may be cut because reading on failed.
			return fmt.Errorf("restore tools: line %d: %w", n, cmp.Or(lines.Err(), err))
		}
		org, err := ids.ParseOrg(l.Org)
		if err != nil {
			return fmt.Errorf("restore tools: line %d: %w", n, err)
		}
		switch {
		case l.Unused == 0:
			fresh.records[Key{org, l.Name, l.Version}] = l.record()
		case l.File != nil:
			fresh.unused[l.File.Path] = unused{org, l.File.file(), timeOf(l.Unused), l.Served}
		default:
			return fmt.Errorf("restore tools: line %d: an unused file without a file: %w", n, ErrInvalid)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("restore tools: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records, r.unused = fresh.records, fresh.unused
	r.tell()
	return nil
}
