package flows_test

import (
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
)

func (p *pack) watch(groups ...flows.EventGroup) {
	p.t.Helper()
	m, err := flows.PlanEvents(ids.RootOrg, "ada", groups)
	p.must(err)
	p.must(p.ledger.Propose(m))
}

// The first node stored the batch, its answer was lost, and midnight passed.
func TestEventBatchSentToTwoNodesIsShownOnce(t *testing.T) {
	for _, midnight := range []bool{false, true} {
		inPack(t, func(t *testing.T, p *pack) { // the bubble begins at 2000-01-01 00:00 UTC
			a, b := p.nodes[0], p.nodes[1]
			p.watch(eventGroup("", execsTok, execs))
			p.must(a.follower.CatchUp()) // b has not heard of the table yet
			time.Sleep(24*time.Hour - time.Second)
			today := filestore.Events(ids.RootOrg, execs, time.Now())
			a.take(event(execsTok, 7, `{"pid":1}`, `{"pid":2}`))
			if midnight {
				time.Sleep(2 * time.Second)
			}
			b.take(event(execsTok, 7, `{"pid":1}`, `{"pid":2}`), event(execsTok, 8, `{"pid":1}`))
			total := int64(0)
			for _, day := range []filestore.Set{today, filestore.Events(ids.RootOrg, execs, time.Now().Add(time.Hour))} {
				page, err := p.reader.ReadRows(t.Context(), day, filestore.RowsQuery{})
				p.must(err)
				if total += page.Total; len(page.Conflicts) > 0 {
					t.Errorf("conflicts %+v", page.Conflicts)
				}
			}
			if total != 3 {
				t.Errorf("readers see %d rows, want 3", total)
			}
			wantLetters(t, p, "")
		}, "a", "b")
	}
}

// A label is set through one node; the client is connected to another, which hears
// of it by applying the entry, and to which it comes with what the first gave it.
func TestLabelReachesTheEventTableThroughAnotherNode(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		at := b.attach()
		defer at.Close()
		p.watch(eventGroup("", execsTok, execs), eventGroup("Lab", "$x", "Other"))
		p.deliver()
		b.CheckedIn(ids.RootOrg, p.client, 0)
		b.CheckedIn(ids.RootOrg, p.client, wantTable(t, at, 1))
		time.Sleep(time.Second)
		a.labels.set("LAB")
		a.LabelsChanged(ids.RootOrg, p.client)
		wantNext(t, at, "")
		for len(at.Wake()) > 0 {
			<-at.Wake()
		}
		b.labels.set("LAB") // as it applies the same entry
		b.LabelsChanged(ids.RootOrg, p.client)
		woken(t, at)
		version := wantTable(t, at, 2)
		b.CheckedIn(ids.RootOrg, p.client, version)
		wantNext(t, at, "")
		moved := a.attach()
		defer moved.Close()
		a.CheckedIn(ids.RootOrg, p.client, version)
		wantNext(t, moved, "")
	}, "a", "b")
}

// Clients take one answer a second: whoever labels one by the hundred must not fill
// its connection with event tables that nobody needs.
func TestLabelsMakeNoMoreTablesThanTheClientCanTake(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		m := p.nodes[0]
		at := m.attach()
		defer at.Close()
		p.watch(eventGroup("", execsTok, execs), eventGroup("Lab", "$x", "Other"))
		p.deliver()
		label := func(labels ...string) {
			m.labels.set(labels...)
			m.LabelsChanged(ids.RootOrg, p.client)
		}
		m.CheckedIn(ids.RootOrg, p.client, 0)
		version := wantTable(t, at, 1)
		m.CheckedIn(ids.RootOrg, p.client, version)
		label("other") // has no event queries
		wantNext(t, at, "")
		label("LAB")
		version = wantTable(t, at, 2)
		for range 3 { // it has not adopted that yet
			label("other")
			wantNext(t, at, "")
			label("lab")
			wantNext(t, at, "")
		}
		label()
		wantNext(t, at, "")
		m.CheckedIn(ids.RootOrg, p.client, version)
		later := wantTable(t, at, 1)
		if later <= version {
			t.Errorf("version %d is not above %d", later, version)
		}
		label("lab") // and now the client stays silent
		wantNext(t, at, "")
		time.Sleep(time.Minute)
		woken(t, at)
		wantTable(t, at, 2)
	}, "a")
}

func wantTable(t *testing.T, at *flows.Attachment, events int) uint64 {
	t.Helper()
	table := wantNext(t, at, "table")[0].UpdateEventTable
	if len(table.Event) != events {
		t.Errorf("table has %d queries, want %d", len(table.Event), events)
	}
	return table.Version
}

// A client that came from another deployment has a number that nobody here
// issued. One node gives it the table; at no other node does it get that again.
func TestTableOfAForeignClientIsKnownOnEveryNode(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		p.watch(eventGroup("", execsTok, execs))
		p.deliver()
		foreign := uint64(time.Now().Add(1000 * time.Hour).UnixNano())
		at := p.nodes[0].attach()
		p.nodes[0].CheckedIn(ids.RootOrg, p.client, foreign)
		version := wantTable(t, at, 1)
		at.Close()
		if version <= foreign {
			t.Errorf("version %d is not above the client's %d", version, foreign)
		}
		for _, m := range p.nodes {
			at := m.attach()
			m.CheckedIn(ids.RootOrg, p.client, version)
			wantNext(t, at, "")
			m.CheckedIn(ids.RootOrg, p.client, version+1)
			wantTable(t, at, 1)
			at.Close()
		}
		time.Sleep(time.Second)
		p.watch()
		p.deliver()
		at = p.nodes[1].attach()
		defer at.Close()
		p.nodes[1].CheckedIn(ids.RootOrg, p.client, version)
		if newest := wantTable(t, at, 0); newest <= version {
			t.Errorf("version %d is not above %d", newest, version)
		}
	}, "a", "b", "c")
}
