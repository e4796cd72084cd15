package client

import (
	"fmt"
	"io"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

// storedReader gives the bytes of a file as they are stored: without its
// sparse parts.
type storedReader struct {
	reader io.Reader
	seeker io.Seeker   // nil: read once, from the start
	ranges []vql.Range // as the file has them
	parts  []vql.Range // those with data; nil: the whole file
	sparse bool
	stored int64 // length of all parts

	part int   // the one at hand
	at   int64 // within it
	read int64 // of a whole file
}

func newStoredReader(r vql.UploadRequest) *storedReader {
	s := &storedReader{reader: r.Reader}
	s.seeker, _ = r.Reader.(io.Seeker)
	if s.seeker == nil || len(r.Ranges) == 0 {
		return s
	}
	s.ranges, s.parts = r.Ranges, []vql.Range{}
	for _, part := range r.Ranges {
		if part.Sparse {
			s.sparse = true
			continue
		}
		s.parts = append(s.parts, part)
		s.stored += part.Length
	}
	if !s.sparse {
		s.parts = nil
	}
	return s
}

// rewind goes back to the first stored byte.
func (s *storedReader) rewind() error {
	s.part, s.at, s.read = 0, 0, 0
	if s.seeker == nil {
		return errNoSeek
	}
	if _, err := s.seeker.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("%w: %w", errNoSeek, err)
	}
	return nil
}

// skip moves to a position in the stored bytes.
func (s *storedReader) skip(offset int64) error {
	if s.parts == nil && s.seeker != nil {
		s.read = offset
		_, err := s.seeker.Seek(offset, io.SeekStart)
		return err
	}
	for s.parts != nil && s.part < len(s.parts) && offset >= s.parts[s.part].Length {
		offset -= s.parts[s.part].Length
		s.part++
	}
	if s.parts != nil {
		s.at = offset
		return nil
	}
	_, err := io.CopyN(io.Discard, s, offset)
	return err
}

// Read implements io.Reader.
func (s *storedReader) Read(p []byte) (int, error) {
	if s.parts == nil {
		n, err := s.reader.Read(p)
		s.read += int64(n)
		return n, err
	}
	for s.part < len(s.parts) && s.at >= s.parts[s.part].Length {
		s.part, s.at = s.part+1, 0
	}
	if s.part >= len(s.parts) {
		return 0, io.EOF
	}
	part := s.parts[s.part]
	// Sought each time: whoever gave the reader may share its position.
	if _, err := s.seeker.Seek(part.Offset+s.at, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := s.reader.Read(p[:min(int64(len(p)), part.Length-s.at)])
	s.at += int64(n)
	if n > 0 {
		return n, nil
	}
	if err == nil || err == io.EOF { //nolint:errorlint // io.Reader's contract
		err = fmt.Errorf("file is shorter than its ranges say: %w", io.ErrNoProgress)
	}
	return 0, err
}

// logical is the length of the file with its sparse parts, as far as known.
func (s *storedReader) logical() int64 {
	if !s.sparse {
		return s.read
	}
	last := s.ranges[len(s.ranges)-1]
	return last.Offset + last.Length
}

// index lists all ranges, sparse ones with no length in the stored file.
func (s *storedReader) index() *wirepb.Index {
	index := &wirepb.Index{}
	at := int64(0)
	for _, r := range s.ranges {
		entry := &wirepb.Range{FileOffset: at, OriginalOffset: r.Offset, Length: r.Length}
		if !r.Sparse {
			entry.FileLength = r.Length
			at += r.Length
		}
		index.Ranges = append(index.Ranges, entry)
	}
	return index
}
