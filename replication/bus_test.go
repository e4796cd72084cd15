package replication_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"raptorpack/proto/buspb"
	"raptorpack/replication"
)

func TestWhatIsProposedAnywhereIsAppliedEverywhere(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1", "c-1")
	k.nodes[0].leads(1)
	for i, b := range k.nodes {
		body := fmt.Sprintf("of %d", i)
		b.propose(body)
		b.wantCount(body, 1) // who writes here reads it here
	}
	k.same()
}

func TestProposalsOfManyKeepTheirOrderPerNodeAndAreAppliedOnce(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1", "c-1")
	k.nodes[0].leads(1)
	var all sync.WaitGroup
	for i, b := range k.nodes {
		for j := range 8 {
			all.Go(func() {
				for n := range 40 {
					if err := b.node.Propose(t.Context(), mutation(fmt.Sprintf("%d-%d-%d", i, j, n))); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	k.same()
	if got := k.nodes[0].book.total(); got != 3*8*40 {
		t.Errorf("%d applied, want %d", got, 3*8*40)
	}
}

func TestRefusalsComeBackToWhoeverAsked(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1")
	k.nodes[0].leads(1)
	err := k.nodes[1].node.Propose(t.Context(), mutation("refuse this"))
	wantErr(t, err, replication.ErrRefused, errNo)
}

func TestARequestIsAppliedOnceWhicheverNodeItComesThrough(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1", "c-1")
	k.nodes[0].leads(1)
	m := func() *buspb.Mutation {
		m := mutation("asked")
		m.RequestId, m.Principal = "r", "p"
		return m
	}
	var indices []uint64
	for _, b := range k.nodes {
		index, err := b.node.ProposeIndex(t.Context(), m())
		if err != nil {
			t.Fatal(err)
		}
		indices = append(indices, index)
	}
	k.nodes[0].wantCount("asked", 1)
	if indices[0] != indices[1] || indices[1] != indices[2] {
		t.Errorf("indices %v of one request", indices)
	}
}

func TestLargeBodiesTravelAsFiles(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1", "c-1")
	k.nodes[0].leads(1)
	body := strings.Repeat("large ", 100_000)
	k.nodes[2].propose(body)
	if err := k.nodes[1].node.Outbox().AppendSync(t.Context(), []*buspb.Mutation{mutation(body)}); err != nil {
		t.Fatal(err)
	}
	k.nodes[1].eventually("the fact is applied", func() (any, bool) {
		n := k.nodes[1].book.count(body)
		return n, n == 2
	})
	k.same()
}

func TestFactsOfAFollowerReachTheLedgerOnce(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1")
	k.nodes[0].leads(1)
	for i := range 50 {
		if err := k.nodes[1].node.Outbox().AppendSync(t.Context(), []*buspb.Mutation{mutation(fmt.Sprintf("fact %d", i))}); err != nil {
			t.Fatal(err)
		}
	}
	k.nodes[1].eventually("all facts are applied", func() (any, bool) {
		n := k.nodes[1].book.total()
		return n, n == 50
	})
	k.nodes[1].eventually("the outbox is empty", func() (any, bool) {
		lag := k.nodes[1].node.Outbox().Lag()
		return lag, lag == 0
	})
	k.same()
}

func TestWhatIsUnderWayOutlivesItsMaster(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1", "c-1")
	a, b, c := k.nodes[0], k.nodes[1], k.nodes[2]
	a.leads(1)
	var all sync.WaitGroup
	const each = 60
	for i := range 6 {
		from := []*busRig{b, c}[i%2]
		all.Go(func() {
			for n := range each {
				if err := from.node.Propose(t.Context(), mutation(fmt.Sprintf("%d-%d", i, n))); err != nil {
					t.Errorf("proposal %d-%d: %v", i, n, err)
				}
			}
		})
	}
	a.eventually("some are in", func() (any, bool) { n := c.book.total(); return n, n > each })
	a.dies()
	b.leads(2)
	all.Wait()
	k.same()
	if got := b.book.total(); got != 6*each {
		t.Errorf("%d applied, want %d", got, 6*each)
	}
	b.verify()
}

func TestHandOverAmongThree(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1", "c-1")
	for epoch := range uint64(9) {
		b := k.nodes[epoch%3]
		b.leads(epoch + 1)
		k.nodes[(epoch+1)%3].propose(fmt.Sprintf("in epoch %d", epoch+1))
		k.nodes[(epoch+2)%3].propose(fmt.Sprintf("also in epoch %d", epoch+1))
		b.deposed()
	}
	k.nodes[0].leads(100)
	k.nodes[2].propose("last")
	k.same()
	k.nodes[0].verify()
}

func TestNodeThatWasAwayGoesOnFromItsPlace(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1")
	a, b := k.nodes[0], k.nodes[1]
	a.leads(1)
	b.propose("before")
	k.cut(a)
	for i := range 100 {
		a.propose(fmt.Sprintf("meanwhile %d", i))
	}
	waiting := make(chan error, 1)
	go func() { waiting <- b.node.Propose(context.Background(), mutation("patient")) }()
	k.mend(a)
	if err := <-waiting; err != nil {
		t.Errorf("a proposal that waited for the link: %v", err)
	}
	k.same()
}

func TestNodeFarBehindReadsFiles(t *testing.T) {
	small := func(o *replication.Options) { o.WindowBytes, o.MaxFileBytes = 2000, 5000 }
	k := newPack(t, small, "a-1", "b-1")
	a, b := k.nodes[0], k.nodes[1]
	a.leads(1)
	b.propose("before")
	k.cut(a)
	for i := range 300 {
		a.propose(fmt.Sprintf("meanwhile %d", i))
	}
	k.mend(a)
	k.same()
	b.propose("after")
	k.same()
}

func TestNodeFarBehindLoadsASnapshot(t *testing.T) {
	small := func(o *replication.Options) { o.WindowBytes, o.MaxFileBytes, o.SnapshotEntries = 2000, 2000, 40 }
	k := newPack(t, small, "a-1", "b-1")
	a, b := k.nodes[0], k.nodes[1]
	a.leads(1)
	b.propose("before")
	k.cut(a)
	lost := make(chan error, 1)
	go func() { lost <- b.node.Propose(context.Background(), mutation("patient")) }()
	a.grow(6)
	k.mend(a)
	b.eventually("it has caught up", func() (any, bool) {
		want, _ := a.node.Digest()
		at, _ := b.node.Digest()
		return at, at >= want
	})
	if err := <-lost; err != nil {
		t.Errorf("a proposal that waited: %v", err)
	}
	k.same()
}

func TestStateThatIsNotTheLedgersIsThrownAway(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1", "c-1")
	a, b := k.nodes[0], k.nodes[1]
	a.leads(1)
	a.propose("agreed")
	k.same()
	b.node.Corrupt()
	b.eventually("the difference is noticed and healed", func() (any, bool) {
		a.propose("more")
		_, want := a.node.Digest()
		_, got := b.node.Digest()
		return b.node.Mismatches(), b.node.Mismatches() > 0 && got == want
	})
	k.same()
}

func TestAnOlderEpochIsNotFollowed(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1", "c-1")
	a, b, c := k.nodes[0], k.nodes[1], k.nodes[2]
	a.leads(1)
	b.leads(2) // a does not know yet
	c.eventually("it turns to the newer", func() (any, bool) { epoch, _, _ := c.node.Position(); return epoch, epoch == 2 })
	c.propose("in the newer")
	if epoch, _, _ := c.node.Position(); epoch != 2 {
		t.Errorf("the follower stands in epoch %d, want 2", epoch)
	}
	a.term.lost.Store(true)
	_ = a.stopLead()
	a.stopLead = nil
	a.follow()
	a.eventually("it follows", func() (any, bool) { n := a.book.count("in the newer"); return n, n == 1 })
}

func TestStandCoversWhatWasAcknowledged(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1", "c-1")
	k.nodes[0].leads(1)
	k.nodes[2].propose("it follows")
	for i := range 50 {
		body := fmt.Sprintf("%d", i)
		k.nodes[1].propose(body)
		index, err := k.nodes[2].node.Stand(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := k.nodes[2].node.WaitApplied(t.Context(), index); err != nil {
			t.Fatal(err)
		}
		k.nodes[2].wantCount(body, 1)
	}
	k.nodes[0].term.lost.Store(true)
	_, err := k.nodes[2].node.Stand(t.Context())
	wantErr(t, err, replication.ErrNoMaster)
}

func TestNodesKnowHowTheOthersStand(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1", "c-1")
	k.nodes[1].leads(1)
	k.nodes[0].propose("x")
	for _, b := range k.nodes {
		b.eventually("all are known, and who leads", func() (any, bool) {
			var names []string
			leads := ""
			for _, s := range b.node.Pack() {
				names = append(names, s.GetIncarnation())
				if s.GetLeads() == 1 {
					leads = s.GetIncarnation()
				}
			}
			slices.Sort(names)
			return names, slices.Equal(names, []string{"a-1", "b-1", "c-1"}) && leads == "b-1"
		})
		b.eventually("its age is known", func() (any, bool) { age, known := b.node.Age(); return age, known })
	}
	k.nodes[2].dies()
	k.nodes[0].eventually("who died is gone", func() (any, bool) { n := len(k.nodes[0].node.Pack()); return n, n == 2 })
}

func TestSoftStateIsToldAndVanishesWithItsNode(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1")
	a, b := k.nodes[0], k.nodes[1]
	a.soft.say("one")
	a.soft.say("two")
	b.eventually("it is heard", func() (any, bool) {
		got := b.soft.hears("a-1")
		return got, slices.Equal(got, []string{"one", "two"})
	})
	a.soft.say("three")
	b.eventually("what is new is heard", func() (any, bool) {
		got := b.soft.hears("a-1")
		return got, slices.Equal(got, []string{"one", "two", "three"})
	})
	k.cut(a)
	b.eventually("it is gone", func() (any, bool) { got := b.soft.hears("a-1"); return got, len(got) == 0 })
	k.mend(a)
	b.eventually("it is heard from the beginning", func() (any, bool) { got := b.soft.hears("a-1"); return got, len(got) == 3 })
}

func TestStrangersHaveNoPlaceOnTheBus(t *testing.T) {
	k := newPack(t, nil, "a-1")
	other := newAuthority(t)
	for what, cert := range map[string]*tls.Certificate{
		"an operator":               k.trust.certificate(""),
		"a program":                 k.trust.certificate("raptorpack:program"),
		"a node of somebody else's": other.certificate("raptorpack:node"),
		"nobody":                    nil,
	} {
		t.Run(what, func(t *testing.T) {
			config := &tls.Config{InsecureSkipVerify: true}
			if cert != nil {
				config.Certificates = []tls.Certificate{*cert}
			}
			conn, err := grpc.NewClient(k.nodes[0].address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, err = buspb.NewBusClient(conn).Stand(t.Context(), &buspb.StandRequest{})
			if err == nil || strings.Contains(err.Error(), "introduction") {
				t.Errorf("got through to the bus: %v", err)
			}
		})
	}
}

func TestWhatPeersSendIsCheckedBeforeItIsOrdered(t *testing.T) {
	k := newPack(t, nil, "a-1")
	k.nodes[0].leads(1)
	conn, err := grpc.NewClient(k.nodes[0].address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{*k.cert},
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := buspb.NewBusClient(conn)
	me := &buspb.Introduction{Incarnation: "x-1", Lowest: 1, Highest: 1, Epoch: 1}
	for what, c := range map[string]struct {
		from     *buspb.Introduction
		mutation *buspb.Mutation
		says     string
	}{
		"no mutation":            {me, nil, "no mutation"},
		"an unknown kind":        {me, &buspb.Mutation{Kind: "fable"}, "fable"},
		"a body beyond a frame":  {me, &buspb.Mutation{Kind: "book", Body: bytes.Repeat([]byte("x"), 1<<20)}, "too large"},
		"a blob that is no hash": {me, &buspb.Mutation{Kind: "book", Blob: []byte("short")}, "hash"},
		"a blob that is nowhere": {me, &buspb.Mutation{Kind: "book", Blob: make([]byte, 32), BlobBytes: 3}, "not there"},
		"a later bus":            {&buspb.Introduction{Incarnation: "x-1", Lowest: 9, Highest: 9, Epoch: 1}, mutation("x"), "versions 9 to 9"},
		"no name":                {&buspb.Introduction{Lowest: 1, Highest: 1, Epoch: 1}, mutation("x"), "introduction"},
	} {
		t.Run(what, func(t *testing.T) {
			stream, err := client.Propose(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			request := &buspb.ProposeRequest{From: c.from, Epoch: 1, Proposals: []*buspb.Proposal{{Seq: 1, Mutation: c.mutation}}}
			if err := stream.Send(request); err != nil {
				t.Fatal(err)
			}
			_, err = stream.Recv()
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want something that says %q", err, c.says)
			}
		})
	}
	k.nodes[0].propose("the reign goes on")
}

func TestUntoldFactsAreFoundWhereverTheyLie(t *testing.T) {
	k := newPack(t, nil, "a-1", "b-1", "c-1")
	a, b, c := k.nodes[0], k.nodes[1], k.nodes[2]
	if err := a.node.Outbox().AppendSync(t.Context(), []*buspb.Mutation{mutation("one"), mutation(strings.Repeat("two", 100_000))}); err != nil {
		t.Fatal(err)
	}
	if err := c.node.Outbox().AppendSync(t.Context(), []*buspb.Mutation{mutation("three")}); err != nil {
		t.Fatal(err)
	}
	c.dies()
	sizes := func() []int {
		facts, err := b.node.Untold(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var all []int
		for _, m := range facts {
			all = append(all, len(m.Body))
		}
		return all
	}
	if got := sizes(); !slices.Equal(got, []int{3, 300_000, 5}) {
		t.Errorf("bodies of %v bytes are untold", got)
	}
	a.leads(1)
	b.eventually("all are told, those of the dead too", func() (any, bool) { n := b.book.total(); return n, n == 3 })
	if got := sizes(); got != nil {
		t.Errorf("bodies of %v bytes are untold still", got)
	}
}
