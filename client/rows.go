package client

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
	"raptorpack/wire"
)

// Row batching when the request does not say (client protocol 8.2).
const (
	defaultMaxRow       = 10_000
	defaultMaxRowBytes  = 5 << 20
	largestMaxRowBytes  = 32 << 20 // far below the largest record
	defaultQueryTimeout = 600 * time.Second
)

// rowsOut turns the rows of one statement into VQLResponses. Rows that an
// earlier run of the flow already has in the buffer are checked and skipped.
// It is used by one goroutine, apart from flush, which takes the turn.
type rowsOut struct {
	output  *output
	request *wirepb.VQLRequest
	index   uint64 // of the statement
	maxRow  int64
	maxSize int

	passed atomic.Bool // every row known from before has come again

	turn    chan struct{} // one slot: guards what follows, across puts
	columns []string
	known   prefix // in the buffer from an earlier run
	seen    prefix // of all rows given to add
	out     prefix // in the buffer now
	part    uint64
	lines   []byte
}

// output is where a query's results go.
type output struct {
	buffer   putter
	session  string
	query    int // index in the FlowRequest
	compress bool
	status   *queryStatus
	metric   *Metrics
	allow    func(rows int64) error // asked before a row is taken; may be nil
}

func newRowsOut(o *output, request *wirepb.VQLRequest, index int, args *wirepb.VQLCollectorArgs, known, before prefix) *rowsOut {
	r := &rowsOut{
		output: o, request: request, index: uint64(index), maxRow: defaultMaxRow, maxSize: defaultMaxRowBytes,
		turn: make(chan struct{}, 1), known: known, seen: before, out: before,
	}
	if n := args.GetMaxRow(); n > 0 {
		r.maxRow = int64(min(n, 1<<20))
	}
	if n := args.GetMaxRowBufferSize(); n > 0 {
		r.maxSize = int(min(n, largestMaxRowBytes))
	}
	if known.Rows > before.Rows {
		r.out = known
	}
	r.passed.Store(known.Rows <= before.Rows)
	return r
}

func (r *rowsOut) take(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *rowsOut) give() { <-r.turn }

// add takes one row. ErrNotRepeatable when it belongs to what was delivered
// before and differs.
func (r *rowsOut) add(ctx context.Context, row *vql.Dict) error {
	if err := r.take(ctx); err != nil {
		return err
	}
	defer r.give()
	isNew := r.seen.Rows >= r.known.Rows
	if isNew && r.output.allow != nil {
		if err := r.output.allow(1); err != nil {
			return err
		}
	}
	if r.columns == nil {
		for _, name := range row.Keys() { // as AppendJSON writes them
			r.columns = append(r.columns, strings.ToValidUTF8(name, "\uFFFD"))
		}
	}
	start := len(r.lines)
	r.lines = append(vql.AppendJSON(r.lines, row), '\n')
	r.seen = r.seen.extend(r.lines[start:])
	if !isNew {
		r.lines = r.lines[:start]
		return r.joins()
	}
	if r.seen.Rows-r.out.Rows >= r.maxRow || len(r.lines) >= r.maxSize {
		return r.deliver(ctx)
	}
	return nil
}

// joins checks, at the last skipped row, that they are those of the run before.
func (r *rowsOut) joins() error {
	if r.seen.Rows < r.known.Rows {
		return nil
	}
	if r.seen == r.known {
		r.passed.Store(true)
		return nil
	}
	return fmt.Errorf("%w: the first %d rows differ from those already delivered", ErrNotRepeatable, r.known.Rows)
}

// flush puts the rows that wait.
func (r *rowsOut) flush(ctx context.Context) error {
	if err := r.take(ctx); err != nil {
		return err
	}
	defer r.give()
	return r.deliver(ctx)
}

// finish puts the rest and returns how far the name has come. A run whose last
// statement of this name leaves rows of the run before unseen did not repeat it.
func (r *rowsOut) finish(ctx context.Context, later []*wirepb.VQLRequest) (prefix, error) {
	if err := r.flush(ctx); err != nil {
		return r.seen, err
	}
	for _, request := range later {
		if request.GetName() == r.request.GetName() {
			return r.seen, nil
		}
	}
	if r.seen.Rows < r.known.Rows {
		return r.seen, fmt.Errorf("%w: only %d of %d delivered rows came again", ErrNotRepeatable, r.seen.Rows, r.known.Rows)
	}
	return r.seen, nil
}

func (r *rowsOut) deliver(ctx context.Context) error {
	if len(r.lines) == 0 {
		return nil
	}
	rows := r.seen.Rows - r.out.Rows
	m := mark{Flow: r.output.session, Kind: markRows, Query: r.output.query, Name: r.request.GetName(), Prefix: r.seen}
	if err := r.output.buffer.put(ctx, m, r.message(rows)); err != nil {
		return err
	}
	if r.output.status != nil {
		r.output.status.addRows(r.request.GetName(), rows)
	}
	r.output.metric.rows.Add(float64(rows))
	r.out = r.seen
	r.part++
	r.lines = r.lines[:0]
	if cap(r.lines) > 1<<20 {
		r.lines = nil
	}
	return nil
}

func (r *rowsOut) message(rows int64) *wirepb.VeloMessage {
	response := &wirepb.VQLResponse{
		Columns: r.columns, Query: r.request, QueryId: r.index, Part: r.part,
		Timestamp: uint64(time.Now().UnixMicro()), TotalRows: uint64(rows), QueryStartRow: uint64(r.out.Rows),
	}
	if r.output.compress {
		response.CompressedJsonResponse = wire.Deflate(r.lines)
		response.UncompressedSize = uint64(len(r.lines))
		response.ByteOffset = uint64(r.out.Bytes)
	} else {
		response.JsonlResponse = strings.ToValidUTF8(string(r.lines), "\uFFFD")
	}
	return &wirepb.VeloMessage{SessionId: r.output.session, VqlResponse: response}
}
