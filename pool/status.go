package pool

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Status is how far the agents are.
type Status struct {
	Clients, Started int

	// Connected agents hold a connection now. Enrolled ones have delivered
	// something, or hold a connection that has stood for two seconds: servers send
	// strangers away at once and tell clients without work nothing.
	Connected, Enrolled int

	// Delivered agents have had something acknowledged. Sockets are open now.
	Delivered, Sockets int

	// Acknowledged by the server as durable: ends of flows, those of them with a
	// query that failed, rows (events included), log lines, bytes of uploads.
	Flows, FailedFlows, Rows, Logs, UploadBytes int64

	// Failures are agents that ended by themselves, DialErrors connections that
	// could not be made.
	Failures, DialErrors int64
}

// Status counts; it may be called at any time.
func (p *Pool) Status() Status {
	c := &p.count
	s := Status{
		Clients: len(p.agents), Started: int(c.started.Load()), Flows: c.flows.Load(), FailedFlows: c.failedFlows.Load(),
		Rows: c.rows.Load(), Logs: c.logs.Load(), UploadBytes: c.uploadBytes.Load(), Failures: c.failures.Load(), DialErrors: c.dialErrors.Load(),
	}
	now := time.Now().UnixNano()
	for _, a := range p.agents {
		sockets, delivered := int(a.sockets.Load()), a.delivered.Load()
		s.Sockets += sockets
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

// Summary is what took how long.
type Summary struct {
	Status

	Connect  Latency // opening a connection, without TLS
	Delivery Latency // from an agent's start to its first acknowledged message
	Flow     Latency // from a collection's first query to its end being durable at the server
}

// Summary gives the latencies so far.
func (p *Pool) Summary() Summary {
	return Summary{Status: p.Status(), Connect: p.connects.latency(), Delivery: p.deliveries.latency(), Flow: p.flowTime.latency()}
}

// Report writes a line of progress each second until ctx ends.
func (p *Pool) Report(ctx context.Context, w io.Writer) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	begun, last := time.Now(), Status{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s := p.Status()
		_, err := fmt.Fprintf(w, "%5.0fs started %d/%d connected %d enrolled %d sockets %d flows %d (+%d) failed %d rows %d (+%d) uploaded %d MB errors %d\n",
			time.Since(begun).Seconds(), s.Started, s.Clients, s.Connected, s.Enrolled, s.Sockets, s.Flows, s.Flows-last.Flows, s.FailedFlows,
			s.Rows, s.Rows-last.Rows, s.UploadBytes>>20, s.Failures+s.DialErrors)
		if err != nil {
			return fmt.Errorf("write progress: %w", err)
		}
		last = s
	}
}

// WriteTo writes the summary for people.
func (s Summary) WriteTo(w io.Writer) (int64, error) {
	n, err := fmt.Fprintf(w, "clients %d, delivered %d, flows %d (%d with a failed query), rows %d, log lines %d, uploaded %d bytes, agents ended %d, dial errors %d\n"+
		"connect          %v\nfirst delivery   %v\nflow to durable  %v\n",
		s.Clients, s.Delivered, s.Flows, s.FailedFlows, s.Rows, s.Logs, s.UploadBytes, s.Failures, s.DialErrors, s.Connect, s.Delivery, s.Flow)
	return int64(n), err
}
