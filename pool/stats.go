package pool

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Status is how far the agents are.
type Status struct {
	Clients int `json:"clients"`
	Started int `json:"started"` // have lived; those whose first wave is still to come have not

	// Away agents have no network: their turn is over. Those that have not lived yet are
	// not counted.
	Away int `json:"away"`

	// Connected agents hold a connection now. Enrolled ones have delivered
	// something, or hold a connection that has stood for two seconds: servers send
	// strangers away at once and tell clients without work nothing.
	Connected int `json:"connected"`
	Enrolled  int `json:"enrolled"`

	// Delivered agents have had something acknowledged. Sockets are open now.
	Delivered int `json:"delivered"`
	Sockets   int `json:"sockets"`

	// Acknowledged by the server as durable: ends of flows, those of them with a
	// query that failed, rows (events included), log lines, bytes of uploads.
	Flows       int64 `json:"flows"`
	FailedFlows int64 `json:"failed_flows"`
	Rows        int64 `json:"rows"`
	Logs        int64 `json:"logs"`
	UploadBytes int64 `json:"upload_bytes"`

	// Failures are agents that ended by themselves, DialErrors connections that
	// could not be made.
	Failures   int64 `json:"failures"`
	DialErrors int64 `json:"dial_errors"`

	// What misbehaving agents did: connections broken, batches sent again, posts that
	// mean nothing, posts of rows that nobody asked for, queries never answered.
	Cut     int64 `json:"cut,omitempty"`
	Resent  int64 `json:"resent,omitempty"`
	Garbage int64 `json:"garbage,omitempty"`
	Forged  int64 `json:"forged,omitempty"`
	Muted   int64 `json:"muted,omitempty"`
}

// Add adds what another pool says of its agents.
func (s *Status) Add(o Status) {
	s.Clients, s.Started, s.Away = s.Clients+o.Clients, s.Started+o.Started, s.Away+o.Away
	s.Connected, s.Enrolled = s.Connected+o.Connected, s.Enrolled+o.Enrolled
	s.Delivered, s.Sockets = s.Delivered+o.Delivered, s.Sockets+o.Sockets
	s.Flows, s.FailedFlows = s.Flows+o.Flows, s.FailedFlows+o.FailedFlows
	s.Rows, s.Logs, s.UploadBytes = s.Rows+o.Rows, s.Logs+o.Logs, s.UploadBytes+o.UploadBytes
	s.Failures, s.DialErrors = s.Failures+o.Failures, s.DialErrors+o.DialErrors
	s.Cut, s.Resent, s.Garbage = s.Cut+o.Cut, s.Resent+o.Resent, s.Garbage+o.Garbage
	s.Forged, s.Muted = s.Forged+o.Forged, s.Muted+o.Muted
}

// Status counts; it may be called at any time.
func (p *Pool) Status() Status {
	c := &p.count
	s := Status{
		Clients: len(p.agents), Started: int(c.started.Load()), Flows: c.flows.Load(), FailedFlows: c.failedFlows.Load(),
		Rows: c.rows.Load(), Logs: c.logs.Load(), UploadBytes: c.uploadBytes.Load(), Failures: c.failures.Load(), DialErrors: c.dialErrors.Load(),
		Cut: c.cuts.Load(), Resent: c.resends.Load(), Garbage: c.garbage.Load(), Forged: c.forgeries.Load(), Muted: c.muted.Load(),
	}
	now := time.Now().UnixNano()
	for _, a := range p.agents {
		sockets, delivered := a.sockets(), a.delivered.Load()
		s.Sockets += sockets
		if a.away.Load() {
			s.Away++
		}
		if sockets > 0 {
			s.Connected++
		}
		if delivered {
			s.Delivered++
		}
		if delivered || sockets > 0 && now-a.since.Load() > int64(settled) {
			s.Enrolled++
		}
	}
	return s
}

// Stats are what a pool did, what took how long, and what the pool itself has used. As
// JSON they are a line that Split reads.
type Stats struct {
	At        time.Time `json:"at"`
	Processes int       `json:"processes"`
	CPU       float64   `json:"cpu_seconds"`  // of all processes of the pool
	Memory    int64     `json:"memory_bytes"` // that their Go runtimes hold
	Status

	Connect  Histogram `json:"connect"`        // opening a connection, without TLS
	Delivery Histogram `json:"first_delivery"` // from an agent's first start to its first acknowledged message
	Flow     Histogram `json:"task_to_answer"` // from a collection's first query to its end being durable at the server
	Post     Histogram `json:"post_to_answer"` // from the first byte of a post to the first of its answer; not over TLS
}

// Stats gives everything so far.
func (p *Pool) Stats() Stats {
	return Stats{
		At: time.Now().UTC(), Processes: 1, CPU: processorTime().Seconds(), Memory: memory(), Status: p.Status(),
		Connect: p.connects.now(), Delivery: p.deliveries.now(), Flow: p.flowTime.now(), Post: p.posts.now(),
	}
}

// Add adds another pool's; At is the later moment.
func (s *Stats) Add(o Stats) {
	if o.At.After(s.At) {
		s.At = o.At
	}
	s.Processes, s.CPU, s.Memory = s.Processes+o.Processes, s.CPU+o.CPU, s.Memory+o.Memory
	s.Status.Add(o.Status)
	s.Connect.Add(o.Connect)
	s.Delivery.Add(o.Delivery)
	s.Flow.Add(o.Flow)
	s.Post.Add(o.Post)
}

// WriteTo writes tables for people.
func (s Stats) WriteTo(w io.Writer) (int64, error) {
	out := &counting{w: w}
	fmt.Fprintf(out, "clients %d, delivered %d, flows %d (%d with a failed query), rows %d, log lines %d, uploaded %d bytes, agents ended %d, dial errors %d\n",
		s.Clients, s.Delivered, s.Flows, s.FailedFlows, s.Rows, s.Logs, s.UploadBytes, s.Failures, s.DialErrors)
	if s.Cut+s.Resent+s.Garbage+s.Forged+s.Muted > 0 {
		fmt.Fprintf(out, "misdeeds: connections cut %d, batches sent again %d, garbage %d, forged rows %d, queries not answered %d\n", s.Cut, s.Resent, s.Garbage, s.Forged, s.Muted)
	}
	fmt.Fprintf(out, "the pool itself: %d processes, %.1f CPU s, %d MiB (%.1f KiB a client)\n",
		s.Processes, s.CPU, s.Memory>>20, float64(s.Memory)/1024/float64(max(1, s.Clients)))
	t := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "seconds\tsamples\tmean\tp50\tp90\tp99\tmax\t")
	for _, row := range []struct {
		name string
		h    Histogram
	}{{"connect", s.Connect}, {"enrol to first delivery", s.Delivery}, {"task to answer", s.Flow}, {"post to acknowledgement", s.Post}} {
		l := row.h.Latency()
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t\n", row.name, l.Count, inSeconds(l.Mean), inSeconds(l.P50), inSeconds(l.P90), inSeconds(l.P99), inSeconds(l.Max))
	}
	t.Flush() // out keeps the error
	return out.n, out.err
}

// inSeconds is empty where there is nothing to tell.
func inSeconds(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.4f", d.Seconds())
}

// counting is a writer that remembers how much went through, and its first error.
type counting struct {
	w   io.Writer
	n   int64
	err error
}

func (c *counting) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.w.Write(p)
	c.n, c.err = c.n+int64(n), err
	return n, err
}
