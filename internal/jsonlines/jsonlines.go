// Package jsonlines writes states as lines of JSON.
package jsonlines

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
)

// Write writes each value as one line, with the characters of HTML as they are,
// and returns how many bytes went to w.
func Write[T any](w io.Writer, values iter.Seq[T]) (int64, error) {
	counted := &Counter{Writer: w}
	out := bufio.NewWriterSize(counted, 1<<16)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for v := range values {
		if err := enc.Encode(v); err != nil {
			return counted.Bytes, fmt.Errorf("write %T: %w", v, err)
		}
	}
	err := out.Flush()
	return counted.Bytes, err
}

// Counter counts the bytes that its Writer took.
type Counter struct {
	io.Writer
	Bytes int64
}

// Write implements io.Writer.
func (c *Counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.Bytes += int64(n)
	return n, err
}
