package wholepack

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"time"

	"raptorpack/filestore"
	"raptorpack/integration/history"
)

// Finish ends all faults, waits until the pack is whole and has nothing left to do,
// stops it, and fails the test for everything in which history and disk disagree.
func (p *Pack) Finish() {
	p.t.Helper()
	for _, v := range p.Violations() {
		p.t.Error(v)
	}
}

// Violations is Finish for those who expect some.
func (p *Pack) Violations() []history.Violation {
	p.t.Helper()
	var found []history.Violation
	say := func(rule, format string, args ...any) {
		found = append(found, history.Violation{Rule: rule, Text: fmt.Sprintf(format, args...)})
	}
	p.HealAll()
	for _, n := range p.Nodes {
		n.Start()
	}
	if last, ok := p.await(patience, p.whole); !ok {
		say("unfinished", "the pack is not whole after %v: %s", patience, last)
	}
	for _, w := range p.works {
		w.Stop()
	}
	flows := p.awaitFlows(p.flows)
	var finals []history.Final
	if _, ok := p.await(patience/3, func() (bool, string) {
		finals = p.standing()
		return len(finals) == len(p.Nodes) && agree(finals), ""
	}); !ok {
		say("digest", "the nodes do not come together: %+v", finals)
	}
	for _, f := range finals {
		p.History.Final(f)
	}
	for _, n := range p.Nodes {
		if err := n.Fatal(); err != nil {
			say("node", "%v", err)
		}
	}
	p.stop()
	return append(found, p.compare(flows)...)
}

// stop ends agents and nodes as one should.
func (p *Pack) stop() {
	for _, a := range p.agents {
		a.stop()
	}
	for _, n := range p.Nodes {
		n.Stop()
	}
}

// compare holds the history against the disk.
func (p *Pack) compare(flows []history.Flow) []history.Violation {
	p.t.Helper()
	ctx := context.Background()
	var found []history.Violation
	ledger, err := p.wholeLedger(ctx)
	if err != nil {
		found = append(found, history.Violation{Rule: "ledger", Text: err.Error()})
	}
	h := p.History.History()
	found = append(found, h.Check(ledger)...)
	store, err := filestore.Open("", filestore.Options{FS: p.disk(), Logger: quiet})
	if err != nil {
		p.t.Fatal(err)
	}
	defer store.Close(ctx)
	rows, err := history.CheckRows(ctx, store, flows)
	if err != nil {
		found = append(found, history.Violation{Rule: "rows", Text: err.Error()})
	}
	p.t.Logf("%d entries, %d changes (%d acknowledged), %d reads, %d reigns, %d flows", len(ledger), len(h.Ops), p.History.Acknowledged(), len(h.Reads), len(h.Reigns), len(flows))
	return append(found, rows...)
}

var quiet = slog.New(slog.DiscardHandler)

// wholeLedger reads the ledger together with what snapshots have replaced since.
func (p *Pack) wholeLedger(ctx context.Context) ([]history.Entry, error) {
	d := p.disk()
	for _, dir := range []string{"ledger", "lease"} {
		if err := d.keepAll(dir); err != nil {
			return nil, err
		}
	}
	store, err := filestore.Open(d.kept, filestore.Options{Logger: quiet})
	if err != nil {
		return nil, err
	}
	entries, err := history.ReadLedger(ctx, store)
	return entries, errors.Join(err, store.Close(ctx))
}

// keepAll copies a whole folder to what was removed from it.
func (d *disk) keepAll(dir string) error {
	entries, err := d.FS.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(filepath.Join(d.kept, dir), 0o700)
	}
	for _, entry := range entries {
		name := path.Join(dir, entry.Name())
		if entry.IsDir() {
			err = errors.Join(err, d.keepAll(name))
		} else {
			err = errors.Join(err, d.keep(name))
		}
	}
	return err
}

// awaitFlows waits until every flow has come to an end and its agent was told of it,
// and returns how they stand then.
func (p *Pack) awaitFlows(flows []history.Flow) []history.Flow {
	op := p.NewOperator("clerk")
	deadline := time.Now().Add(patience)
	for i := range flows {
		f := &flows[i]
		p.await(max(time.Until(deadline), time.Second), func() (bool, string) {
			var now struct{ State string }
			if err := op.Ask(p.Nodes[i%len(p.Nodes)], http.MethodGet, "/clients/"+f.Client+"/flows/"+f.ID, nil, &now); err != nil {
				return false, err.Error()
			}
			f.State = now.State
			return f.State == "errored" || f.State == "cancelled" || f.State == "completed" && p.told(f), f.State
		})
	}
	return flows
}

// told reports whether the agents of a flow's client know of all that is durable.
func (p *Pack) told(f *history.Flow) bool {
	for _, a := range p.agents {
		if a.ID != f.Client {
			continue
		}
		if rows, ended := a.Acked(f.ID); rows >= f.Rows && ended {
			return true
		}
	}
	return false
}

// standing is how every node that runs stands at this moment.
func (p *Pack) standing() []history.Final {
	var all []history.Final
	for _, n := range p.Nodes {
		if one := n.Process(); one != nil {
			index, sum := one.Digest()
			all = append(all, history.Final{Node: one.Incarnation(), Index: index, Digest: hex.EncodeToString(sum[:])})
		}
	}
	return all
}

// agree reports whether all nodes stand at one entry with one digest.
func agree(all []history.Final) bool {
	for _, f := range all {
		if f.Index != all[0].Index || f.Digest != all[0].Digest {
			return false
		}
	}
	return true
}
