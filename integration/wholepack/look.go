package wholepack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

// Store is the pack's disk as an outsider sees it. Close it before the test ends.
func (p *Pack) Store() *filestore.Store {
	p.t.Helper()
	store, err := filestore.Open("", filestore.Options{FS: p.disk(), Logger: quiet})
	if err != nil {
		p.t.Fatal(err)
	}
	return store
}

// Metric sums the series of a metric whose labels contain all of these texts, as the
// node's monitoring door shows them.
func (n *Node) Metric(name string, labels ...string) (float64, error) {
	one := n.Process()
	if one == nil {
		return 0, errors.New("not running")
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + one.MonitoringAddress() + "/metrics")
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for line := range strings.Lines(string(text)) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		base, rest, _ := strings.Cut(series, "{")
		if base != name || !hasAll(rest, labels) {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", line, err)
		}
		sum += number
	}
	return sum, nil
}

// Twin starts one more process of the node's name and returns what it says. If it
// runs, it is ended at once.
func (n *Node) Twin(ctx context.Context) error {
	l := n.newLife()
	defer func() {
		l.end()
		l.gate.shut()
		l.gate.free()
	}()
	stop := context.AfterFunc(ctx, l.end)
	defer stop()
	one, err := n.compose(l)
	if err != nil {
		return err
	}
	l.end()
	return one.Run(l.ctx)
}

// Orphan lets the present life go on without anybody to end it, so that Start begins
// another beside it: a process of which its service manager lost sight. What is
// returned ends it as Kill does.
func (n *Node) Orphan() *Orphan {
	n.pack.t.Helper()
	o := &Orphan{n, n.give()}
	if o.life == nil {
		n.pack.t.Fatalf("%s does not run", n.Name)
	}
	n.pack.mu.Lock()
	defer n.pack.mu.Unlock()
	n.pack.stops = append(n.pack.stops, o.Kill)
	return o
}

// Orphan is a life that nobody wants any more.
type Orphan struct {
	node *Node
	life *life
}

// FS is where the faults of its disk are told.
func (o *Orphan) FS() *filestoretest.Faulty { return o.life.fs }

// Ended is closed when all of it has returned.
func (o *Orphan) Ended() <-chan struct{} { return o.life.done }

// Kill ends it.
func (o *Orphan) Kill() { o.node.slay(o.life, true) }
