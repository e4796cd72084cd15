package endpoint

import (
	"time"
)

// forwardRow is a row that room was made for. A row larger than the whole buffer gets
// all of it.
type forwardRow struct {
	data []byte
	held int64
}

// forwardBatch is rows on their way in one post.
type forwardBatch struct {
	rows   [][]byte
	bytes  int64 // of the rows alone
	held   int64 // of the buffer
	reason string
}

// collect gathers rows to batches and hands these out, in order. What it holds is
// bounded by the room that take acquired.
func (f *forwarder) collect() {
	defer close(f.batches)
	c := &forwardCollector{options: &f.options}
	c.timer = time.NewTimer(time.Hour)
	c.timer.Stop()
	defer c.timer.Stop()
	tell, end := f.ticker()
	defer end()
	for in := f.rows; in != nil || len(c.ready) > 0; {
		var out chan<- *forwardBatch
		var first *forwardBatch
		if len(c.ready) > 0 {
			out, first = f.batches, c.ready[0]
		}
		select {
		case row, more := <-in:
			if !more {
				c.flush("end")
				in = nil
				continue
			}
			c.add(row)
		case <-c.timer.C:
			c.flush("time")
		case out <- first:
			c.ready[0] = nil
			c.ready = c.ready[1:]
		case <-tell:
			f.tell()
		}
	}
}

// forwardCollector is the state of collect.
type forwardCollector struct {
	options *forwardOptions
	now     *forwardBatch   // gathering; nil when empty
	ready   []*forwardBatch // waiting for a thread, the oldest first
	timer   *time.Timer     // runs while now gathers
}

func (c *forwardCollector) add(row forwardRow) {
	size := int64(len(row.data))
	if c.now != nil && c.now.bytes+size > c.options.batchBytes {
		c.flush("bytes")
	}
	if c.now == nil {
		c.now = &forwardBatch{}
		c.timer.Reset(c.options.wait)
	}
	b := c.now
	b.rows, b.bytes, b.held = append(b.rows, row.data), b.bytes+size, b.held+row.held
	switch {
	case int64(len(b.rows)) >= c.options.batchRows:
		c.flush("count")
	case b.bytes >= c.options.batchBytes, b.held >= c.options.buffer/2: // small rows hold more than their bytes
		c.flush("bytes")
	}
}

func (c *forwardCollector) flush(reason string) {
	c.timer.Stop()
	if c.now == nil {
		return
	}
	c.now.reason = reason
	c.ready = append(c.ready, c.now)
	c.now = nil
}
