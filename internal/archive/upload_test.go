package archive_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"raptorpack/internal/archive"
)

// kept is a stored upload in memory.
type kept struct {
	text   string // stored
	size   int64  // with its holes
	broken error  // of reading, after half of it
	closed *int
}

func (k kept) Size() int64                 { return k.size }
func (k kept) Close(context.Context) error { *k.closed++; return nil }
func (k kept) Stored(context.Context) *io.SectionReader {
	return io.NewSectionReader(breaking{strings.NewReader(k.text), int64(len(k.text)) / 2, k.broken}, 0, int64(len(k.text)))
}

func (k kept) Expanded(context.Context) *io.SectionReader {
	return io.NewSectionReader(strings.NewReader(k.text+strings.Repeat("\x00", int(k.size)-len(k.text))), 0, k.size)
}

type breaking struct {
	io.ReaderAt
	after int64
	err   error
}

func (b breaking) ReadAt(p []byte, off int64) (int, error) {
	if b.err != nil && off+int64(len(p)) > b.after {
		n, _ := b.ReaderAt.ReadAt(p[:max(0, b.after-off)], off)
		return n, b.err
	}
	return b.ReaderAt.ReadAt(p, off)
}

func TestUploadsGoIntoAZip(t *testing.T) {
	const text = "stored bytes"
	sum := sha256.Sum256([]byte(text))
	hash := hex.EncodeToString(sum[:])
	damaged := errors.New("medium error")
	for _, tc := range []struct {
		name    string
		upload  archive.Upload
		file    kept
		open    error
		index   error
		members string
		trouble string
	}{
		{name: "plain", members: "f(file)=stored bytes"},
		{name: "sparse", upload: archive.Upload{Sparse: true}, members: "f(file)=stored bytes f.idx(index)=runs"},
		{name: "expanded", upload: archive.Upload{Sparse: true, Expand: true}, file: kept{size: 14}, members: "f(whole)=stored bytes\x00\x00"},
		{
			name: "too large with its holes", upload: archive.Upload{Sparse: true, Expand: true}, file: kept{size: archive.MaxExpanded + 1},
			members: "f(file)=stored bytes f.idx(index)=runs", trouble: "it is as it is stored",
		},
		{name: "no place", upload: archive.Upload{Member: "-"}, trouble: "makes no sense"},
		{name: "other bytes before", upload: archive.Upload{Conflict: true}, members: "f(file)=stored bytes", trouble: "these are the newest"},
		{name: "gone", open: errors.New("not there"), trouble: "not there"},
		{name: "damaged", file: kept{broken: damaged}, members: "f(file)=stored", trouble: "only 6 of 12 bytes can be read: medium error"},
		{name: "changed", upload: archive.Upload{SHA256: "abc"}, members: "f(file)=stored bytes", trouble: "but 12 with abc were stored"},
		{name: "no index", upload: archive.Upload{Sparse: true}, index: errors.New("no runs"), members: "f(file)=stored bytes", trouble: "index of its sparse runs: no runs"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			closed := 0
			u, file := tc.upload, tc.file
			file.text, file.closed = text, &closed
			u.At, u.Size = time.Unix(1_700_000_000, 0), int64(len(text))
			if u.Member == "" {
				u.Member = "f"
			}
			u.Member = strings.TrimPrefix(u.Member, "-")
			if u.SHA256 == "" {
				u.SHA256 = hash
			}
			u.Open = func(context.Context) (archive.Stored, error) { return file, tc.open }
			u.Index = func(context.Context) ([]byte, error) { return []byte("runs"), tc.index }
			var out bytes.Buffer
			z := archive.NewWriter(&out)
			kinds, troubles := map[string]string{}, []string{}
			err := u.Write(t.Context(), archive.UploadSink{
				Member: func(name, kind string, at time.Time, write func(io.Writer) error) (archive.Sum, error) {
					kinds[name] = kind
					return z.Member(name, at, write)
				},
				Trouble: func(format string, args ...any) { troubles = append(troubles, fmt.Sprintf(format, args...)) },
			})
			if err = errors.Join(err, z.Close()); err != nil {
				t.Fatal(err)
			}
			if got := members(t, out.Bytes(), kinds); got != tc.members {
				t.Errorf("members %q, want %q", got, tc.members)
			}
			if got := strings.Join(troubles, "; "); (got == "") != (tc.trouble == "") || !strings.Contains(got, tc.trouble) {
				t.Errorf("trouble %q, want %q", got, tc.trouble)
			}
			if opened := tc.open == nil && u.Member != ""; opened != (closed == 1) {
				t.Errorf("closed %d times", closed)
			}
		})
	}
}

// A reader that goes away ends the zip, and is no trouble of the upload.
func TestAnUploadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	closed := 0
	u := archive.Upload{Member: "f", Open: func(context.Context) (archive.Stored, error) {
		cancel()
		return kept{closed: &closed}, nil
	}}
	err := u.Write(ctx, archive.UploadSink{Trouble: func(string, ...any) { t.Error("it is told as trouble") }})
	if !errors.Is(err, context.Canceled) || closed != 1 {
		t.Errorf("%v, closed %d times", err, closed)
	}
}

// members lists a zip as name(kind)=bytes.
func members(t *testing.T, data []byte, kinds map[string]string) string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range z.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s(%s)=%s", f.Name, kinds[f.Name], text))
	}
	return strings.Join(out, " ")
}
