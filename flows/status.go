package flows

import (
	"slices"
	"time"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// takeStats reads progress or an end. The statuses are one per query that has
// begun; totals are their sums.
func (p *packet) takeStats(part *part, s *wirepb.FlowStats) {
	progress := &Progress{At: p.peer.Received}
	var first, duration int64
	var failed, open int
	for _, q := range s.QueryStatus {
		progress.add(q)
		switch q.Status {
		case wirepb.VeloStatus_OK:
		case wirepb.VeloStatus_PROGRESS:
			open++
		default:
			failed++
		}
		if at := int64(q.FirstActive); at > 0 && (first == 0 || at < first) {
			first = at
		}
		duration = max(duration, q.Duration)
	}
	if !s.FlowComplete {
		part.progress = progress
		return
	}
	end := &buspb.FlowEnd{
		Key: part.key.proto(), FirstActive: first, Duration: max(0, duration), Totals: progress.Totals.proto(),
		CpuNs: progress.CPU.Nanoseconds(), Outcome: buspb.FlowEnd_OUTCOME_OK,
	}
	switch n := len(s.QueryStatus); {
	case failed > 0:
		end.Outcome = buspb.FlowEnd_OUTCOME_ERROR
	case open > 0 || n == 0:
		end.Outcome = buspb.FlowEnd_OUTCOME_ERROR
		progress.Error = "the client ended the flow with " + plural(int64(open), "query") + " unfinished of " + plural(int64(n), "status")
	}
	if end.Outcome != buspb.FlowEnd_OUTCOME_OK {
		end.Error = shorten(progress.Error, maxErrorText)
	}
	if part.end == nil {
		part.end = end
	}
	part.progress = progress
}

// unknownFlow reports whether a status says that the client does not know the
// flow.
func unknownFlow(s *wirepb.FlowStats) bool {
	other := func(q *wirepb.VeloStatus) bool { return q.Status != wirepb.VeloStatus_UNKNOWN_FLOW }
	return s.FlowComplete && len(s.QueryStatus) > 0 && !slices.ContainsFunc(s.QueryStatus, other)
}

// Progress is what a running flow last said of itself on this node. It is soft:
// it goes with the node.
type Progress struct {
	At      time.Time // when it came, this node's clock
	Totals  Totals
	CPU     CPU
	Queries int // that have begun
	Running int
	Error   string // of the first query that has one
}

func (p *Progress) add(q *wirepb.VeloStatus) {
	p.Queries++
	if q.Status == wirepb.VeloStatus_PROGRESS {
		p.Running++
	}
	bad := q.Status != wirepb.VeloStatus_PROGRESS && q.Status != wirepb.VeloStatus_OK
	if text := q.ErrorMessage; p.Error == "" && (text != "" || bad) {
		if text == "" {
			text = "query ended with status " + q.Status.String()
		}
		p.Error = shorten(text, maxErrorText)
	}
	t := &p.Totals
	addCount(&t.Rows, q.ResultRows)
	addCount(&t.Logs, q.LogRows)
	addCount(&t.Uploads, q.UploadedFiles)
	addCount(&t.UploadBytes, q.UploadedBytes)
	addCount(&t.ExpectedUploadBytes, q.ExpectedUploadedBytes)
	p.CPU.add(q.CpuNs)
}

// addCount adds what a client counts, without trusting it.
func addCount(to *int64, n int64) {
	*to += min(max(n, 0), filestore.MaxRow-*to)
}

func (t Totals) proto() *buspb.FlowTotals {
	return &buspb.FlowTotals{
		Rows: t.Rows, Logs: t.Logs, Uploads: t.Uploads, UploadBytes: t.UploadBytes,
		ExpectedUploadBytes: t.ExpectedUploadBytes,
	}
}
