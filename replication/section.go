package replication

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"path"

	"raptorpack/filestore"
	"raptorpack/internal/jsonlines"
)

// sectionBuffer is how much of a section is read or written at once.
const sectionBuffer = 1 << 20

// writeSection writes one kind's file of a snapshot and syncs it.
func writeSection(ctx context.Context, s *filestore.Store, dir, kind string, view io.WriterTo) (sec section, err error) {
	sec = section{Kind: kind, File: kind + ".jsonl"}
	file, err := s.CreateFile(ctx, path.Join(dir, sec.File))
	if err != nil {
		return sec, fmt.Errorf("write section %s: %w", kind, err)
	}
	defer discard(ctx, file)
	w := &sectionWriter{ctx: ctx, file: file, hash: sha256.New()}
	buffered := bufio.NewWriterSize(w, sectionBuffer)
	if _, err = view.WriteTo(buffered); err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = file.Sync(ctx)
	}
	if err != nil {
		return sec, fmt.Errorf("write section %s: %w", kind, err)
	}
	sec.Bytes = w.offset
	w.hash.Sum(sec.SHA256[:0])
	return sec, nil
}

// sectionWriter writes a file from its start and hashes what it writes. The
// context is that of the one call it lives in.
type sectionWriter struct {
	ctx    context.Context
	file   *filestore.Handle
	hash   hash.Hash
	offset int64
}

// Write implements io.Writer. The file never keeps p, unless the call was
// abandoned; then nobody uses p again either.
func (w *sectionWriter) Write(p []byte) (int, error) {
	n, err := w.file.WriteAt(w.ctx, p, w.offset)
	w.hash.Write(p[:n])
	w.offset += int64(n)
	return n, err
}

// readSection gives a section to restore (nil: to nobody) and then tells
// whether its bytes were those that the manifest names.
func readSection(ctx context.Context, s *filestore.Store, name string, sec section, restore func(io.Reader) error) error {
	file, err := s.OpenFile(ctx, path.Join(snapshotDir, name, sec.File))
	if err != nil {
		return fmt.Errorf("section %s: %w", sec.Kind, err)
	}
	defer discard(ctx, file)
	sum := sha256.New()
	counted := &jsonlines.Counter{Writer: sum}
	r := io.TeeReader(bufio.NewReaderSize(&handleReader{ctx: ctx, file: file}, sectionBuffer), counted)
	if restore != nil {
		if err := restore(r); err != nil {
			return fmt.Errorf("section %s: %w", sec.Kind, err)
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("section %s: %w", sec.Kind, err)
	}
	if counted.Bytes != sec.Bytes || hexSum(sum.Sum(nil)) != sec.SHA256 {
		return fmt.Errorf("section %s: %d bytes with another hash: %w", sec.Kind, counted.Bytes, ErrDamaged)
	}
	return nil
}

// handleReader reads a file from its start within one call.
type handleReader struct {
	ctx    context.Context
	file   *filestore.Handle
	offset int64
}

func (r *handleReader) Read(p []byte) (int, error) {
	n, err := r.file.ReadAt(r.ctx, p, r.offset)
	r.offset += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// readFull fills p as far as the file goes.
func (r *handleReader) readFull(p []byte) (int, error) {
	n, err := io.ReadFull(r, p)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return n, err
}
