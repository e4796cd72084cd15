package archive

import (
	"errors"
	"io"
)

// FaultReader remembers what went wrong with reading, where whoever copies into a zip
// has to tell that from what went wrong with writing.
type FaultReader struct {
	R   io.Reader
	Err error // nil, also at the end
}

// Read implements io.Reader.
func (f *FaultReader) Read(p []byte) (int, error) {
	n, err := f.R.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.Err = err
	}
	return n, err
}
