package archive

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Kinds of the members that an upload has.
const (
	KindFile  = "file"  // the stored bytes
	KindWhole = "whole" // of a sparse one, with its holes
	KindIndex = "index" // of a sparse one: which runs of the file the stored bytes are
)

// IndexEnding is what the name of an index has behind that of its file.
const IndexEnding = ".idx"

// MaxExpanded bounds a sparse upload that is written with its holes, in bytes: a client
// may claim terabytes of them.
const MaxExpanded = 64 << 30

const uploadBuffer = 256 << 10

// Stored is an upload as it is stored.
type Stored interface {
	Size() int64 // with its holes
	Stored(ctx context.Context) *io.SectionReader
	Expanded(ctx context.Context) *io.SectionReader // with its holes, as zeros
	Close(ctx context.Context) error
}

// Upload is a stored file on its way into a zip.
type Upload struct {
	Member   string // its name in the zip; empty: its place makes no sense
	At       time.Time
	Size     int64  // of the stored bytes, as they were acknowledged
	SHA256   string // of the stored bytes
	Sparse   bool
	Expand   bool // write a sparse one with its holes
	Conflict bool // other bytes came for it before

	Open  func(context.Context) (Stored, error)
	Index func(context.Context) ([]byte, error) // of a sparse one
}

// UploadSink takes what an upload becomes.
type UploadSink struct {
	Member  func(name, kind string, at time.Time, write func(io.Writer) error) (Sum, error)
	Trouble func(format string, args ...any) // what is missing, doubtful or damaged
}

// Write writes the bytes of an upload, and the index of a sparse one. What cannot be
// read is trouble, and the zip goes on.
func (u *Upload) Write(ctx context.Context, to UploadSink) error {
	if u.Member == "" {
		to.Trouble("its line or its place on the filestore makes no sense")
		return nil
	}
	if u.Conflict {
		to.Trouble("other bytes came for it before; these are the newest")
	}
	file, err := u.Open(ctx)
	if ctx.Err() != nil {
		if err == nil {
			_ = file.Close(context.WithoutCancel(ctx)) // it was only read
		}
		return context.Cause(ctx)
	}
	if err != nil {
		to.Trouble("%v", err)
		return nil
	}
	whole, err := u.bytes(ctx, to, file)
	if closing := file.Close(context.WithoutCancel(ctx)); closing != nil {
		to.Trouble("close: %v", closing)
	}
	if err != nil || whole || !u.Sparse {
		return err
	}
	return u.index(ctx, to)
}

// bytes writes the file, and reports whether it did so with its holes.
func (u *Upload) bytes(ctx context.Context, to UploadSink, file Stored) (whole bool, err error) {
	in, kind := &FaultReader{R: file.Stored(ctx)}, KindFile
	if u.Sparse && u.Expand {
		if file.Size() > MaxExpanded {
			to.Trouble("%d bytes with its holes are more than %d: it is as it is stored", file.Size(), int64(MaxExpanded))
		} else {
			in, kind = &FaultReader{R: file.Expanded(ctx)}, KindWhole
		}
	}
	sum, err := to.Member(u.Member, kind, u.At, func(w io.Writer) error {
		_, err := io.CopyBuffer(w, in, make([]byte, uploadBuffer))
		if in.Err != nil && ctx.Err() == nil {
			return nil // told below; the writer is fine
		}
		return err
	})
	switch {
	case err != nil:
		return false, err
	case in.Err != nil:
		to.Trouble("only %d of %d bytes can be read: %v", sum.Size, u.Size, in.Err)
	case kind == KindFile && (sum.SHA256 != u.SHA256 || sum.Size != u.Size):
		to.Trouble("%d bytes with SHA-256 %s, but %d with %s were stored", sum.Size, sum.SHA256, u.Size, u.SHA256)
	}
	return kind == KindWhole, nil
}

func (u *Upload) index(ctx context.Context, to UploadSink) error {
	index, err := u.Index(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		to.Trouble("the index of its sparse runs: %v", err)
		return nil
	}
	_, err = to.Member(u.Member+IndexEnding, KindIndex, u.At, func(w io.Writer) error {
		_, err := w.Write(index)
		return err
	})
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}
