package filestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// memoryOutbox takes facts over at once.
type memoryOutbox struct {
	mu    sync.Mutex
	facts []*buspb.Mutation
	calls int
	fail  error

	before func([]*buspb.Mutation) // looks at facts as they come
}

func (o *memoryOutbox) AppendSync(_ context.Context, facts []*buspb.Mutation) error {
	if o.before != nil {
		o.before(facts)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls++
	if o.fail != nil {
		return o.fail
	}
	o.facts = append(o.facts, facts...)
	return nil
}

func (o *memoryOutbox) kinds() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var kinds []string
	for _, m := range o.facts {
		kinds = append(kinds, m.Kind)
	}
	return kinds
}

// kit is a running committer of one incarnation.
type kit struct {
	*filestore.Committer
	outbox *memoryOutbox
	lapsed atomic.Bool // the lease
	stop   func()
}

// launch runs a committer until the test ends or stop is called.
func launch(t testing.TB, s *filestore.Store, incarnation string, change ...func(*filestore.CommitterOptions)) *kit {
	t.Helper()
	k := &kit{outbox: &memoryOutbox{}}
	o := filestore.CommitterOptions{
		Store: s, Incarnation: incarnation, Valid: func() bool { return !k.lapsed.Load() }, Outbox: k.outbox, Logger: quiet,
	}
	for _, c := range change {
		c(&o)
	}
	var err error
	k.Committer, err = filestore.NewCommitter(o)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	k.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("committer ended with %v", err)
		}
	})
	t.Cleanup(k.stop)
	return k
}

func client(n int) ids.Client {
	c, err := ids.ParseClient(fmt.Sprintf("C.%016x", n))
	if err != nil {
		panic(err)
	}
	return c
}

func flow(text string) ids.Flow {
	f, err := ids.ParseFlow("F." + text)
	if err != nil {
		panic(err)
	}
	return f
}

func hunt(text string) ids.Hunt {
	h, err := ids.ParseHunt("H." + text)
	if err != nil {
		panic(err)
	}
	return h
}

// numbered makes rows that say their stream and number.
func numbered(tag string, first, count int) []byte {
	var b bytes.Buffer
	for i := range count {
		fmt.Fprintf(&b, `{"s":%q,"n":%d}`+"\n", tag, first+i)
	}
	return b.Bytes()
}

func appendRows(set filestore.Set, c ids.Client, f ids.Flow, name string, first, count int) filestore.Append {
	return filestore.Append{
		Set:    set,
		Extent: filestore.Extent{Client: c, Flow: f, Name: name, FirstRow: int64(first), Rows: int64(count)},
		Lines:  numbered(c.String(), first, count),
	}
}

func oneFact(kind string) []*buspb.Mutation { return []*buspb.Mutation{{Kind: kind}} }

var errBroken = errors.New("broken for the test")

func within(part string) func(string) bool {
	return func(path string) bool { return strings.Contains(path, part) }
}

// waitFor waits for a condition that other goroutines bring about.
func waitFor(t testing.TB, what string, met func() bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func newReader(s *filestore.Store) *filestore.Reader {
	return filestore.NewReader(filestore.ReaderOptions{Store: s, Logger: quiet})
}

func export(t testing.TB, s *filestore.Store, set filestore.Set) (string, *filestore.ExportReport) {
	t.Helper()
	var out bytes.Buffer
	report, err := newReader(s).Export(context.Background(), set, filestore.RowsFilter{}, &out)
	check(t, err)
	return out.String(), report
}
