package client

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

const (
	defaultRefresh  = 43_200 * time.Second
	eventLogFlush   = 5 * time.Second
	eventRetry      = 10 * time.Second // the shortest time between two starts of one event query
	eventRefreshFan = 10               // refreshes are spread over a tenth of their period
	eventRescue     = 5 * time.Second  // for rows and logs that wait when a table ends
)

// monitor runs the event table: each of its queries for ever, refreshed now
// and then. Its rows go under F.Monitoring.
type monitor struct {
	runner    *runner
	writeback *Writeback // nil: the table is not stored
	logger    *slog.Logger
	session   string

	turn chan struct{} // one slot: whoever holds it changes the table

	mu      sync.Mutex
	table   *wirepb.VQLEventTable
	version uint64

	stop func() // ends the queries at work and waits for them; the turn guards it
}

func newMonitor(r *runner, w *Writeback) *monitor {
	return &monitor{
		runner: r, writeback: w, logger: r.logger, session: ids.Monitoring.String(), turn: make(chan struct{}, 1),
		table: &wirepb.VQLEventTable{},
	}
}

// current is the version of the table that runs now.
func (m *monitor) current() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.version
}

// restore starts the table of the writeback, before any contact.
func (m *monitor) restore(ctx context.Context) {
	if m.writeback == nil {
		return
	}
	table := m.writeback.Events()
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	m.install(ctx, table)
}

// update takes a table from the server, if it is newer than the one that runs.
// Equal queries go on running under the new version.
func (m *monitor) update(ctx context.Context, table *wirepb.VQLEventTable) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return
	}
	m.mu.Lock()
	old, version := m.table, m.version
	m.mu.Unlock()
	if table.GetVersion() <= version {
		m.logger.Debug("event table is not newer", "version", table.GetVersion(), "running", version)
		return
	}
	if m.writeback != nil {
		if err := m.writeback.SetEvents(table); err != nil {
			m.logger.Error("event table not stored, it will not survive a restart", "err", err)
		}
	}
	if sameEvents(old, table) {
		m.adopt(table)
		return
	}
	m.end()
	m.install(ctx, table)
	m.logger.Info("event table changed", "version", table.GetVersion(), "queries", len(table.GetEvent()))
}

func (m *monitor) adopt(table *wirepb.VQLEventTable) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.table, m.version = table, table.GetVersion()
}

// sameEvents compares what decides about the running queries.
func sameEvents(a, b *wirepb.VQLEventTable) bool {
	if len(a.GetEvent()) != len(b.GetEvent()) {
		return false
	}
	for i, x := range a.GetEvent() {
		y := b.GetEvent()[i]
		left := &wirepb.VQLCollectorArgs{Query: x.GetQuery(), Env: x.GetEnv()}
		right := &wirepb.VQLCollectorArgs{Query: y.GetQuery(), Env: y.GetEnv()}
		if !proto.Equal(left, right) {
			return false
		}
	}
	return true
}

// install starts a table's queries; end waits for them. The turn is held.
func (m *monitor) install(ctx context.Context, table *wirepb.VQLEventTable) {
	ctx, endQueries := context.WithCancel(ctx)
	// What they gave before they were ended is delivered after it.
	life, endLife := context.WithCancel(context.WithoutCancel(ctx))
	logs := newLogSink(m.runner.buffer, m.session, 0, 1<<62, "")
	var queries sync.WaitGroup
	for i, args := range table.GetEvent() {
		if name := eventName(args); name != "" {
			queries.Go(func() { m.keep(ctx, life, i, name, args, logs) })
		}
	}
	if len(table.GetEvent()) > 0 {
		queries.Go(func() { flushLogs(ctx, life, logs) })
	}
	m.stop = func() {
		endQueries()
		limit := time.AfterFunc(eventRescue, endLife) // a buffer may stay full
		defer limit.Stop()
		queries.Wait()
		if err := logs.flush(life); err != nil {
			m.logger.Warn("last log lines of event queries are lost", "err", err)
		}
		endLife()
	}
	m.adopt(table)
}

// end stops the queries and waits for them.
func (m *monitor) end() {
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
}

// close ends the monitor.
func (m *monitor) close() {
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	m.end()
}

func eventName(args *wirepb.VQLCollectorArgs) string {
	for _, q := range args.GetQuery() {
		if q.GetName() != "" {
			return q.GetName()
		}
	}
	return ""
}

func flushLogs(ctx, life context.Context, l *logSink) {
	ticker := time.NewTicker(eventLogFlush)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := l.flush(life); err != nil {
				return // the buffer is broken or we stop; Run tells it
			}
		}
	}
}

// keep runs one event query until ctx ends, afresh after each refresh period.
func (m *monitor) keep(ctx, life context.Context, index int, name string, args *wirepb.VQLCollectorArgs, logs *logSink) {
	period := max(eventRetry, seconds(args.GetTimeout(), defaultRefresh))
	for ctx.Err() == nil {
		round, cancel := context.WithTimeout(ctx, period+rand.N(max(1, period/eventRefreshFan)))
		m.once(round, life, index, name, args, logs)
		<-round.Done() // a query that ended by itself waits for its refresh
		cancel()
	}
}

// once runs the query for one period. What it gave is delivered until life ends.
func (m *monitor) once(ctx, life context.Context, index int, name string, args *wirepb.VQLCollectorArgs, logs *logSink) {
	now := time.Now()
	q := &query{
		runner: m.runner, args: args, index: index, status: newQueryStatus(now), began: now,
		flushed: now, heartbeat: now,
	}
	q.output = &output{
		buffer: m.runner.buffer, session: m.session, query: index, status: q.status, metric: m.runner.metric,
	}
	q.uploads = newUploader(q.output, newUploadBook(nil), func(int64) error { return nil })
	q.log = func(level, message string) {
		if got, err := logs.add(life, name, level, message); err == nil && got == vql.LevelError {
			q.status.fail(message)
		}
	}
	q.rescue = func(out *rowsOut) error { return out.flush(life) }
	ticking, stop := context.WithCancel(ctx)
	var ticker sync.WaitGroup
	ticker.Go(func() { q.ticks(ticking) })
	q.run(ctx)
	stop()
	ticker.Wait()
	if q.status.snapshot(now).GetErrorMessage() != "" {
		m.runner.metric.eventErrors.Inc()
	}
}

// ticks flushes waiting rows once a second.
func (q *query) ticks(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			if err := q.tick(ctx, now); err != nil {
				return
			}
		}
	}
}
