package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"raptorpack/clients"
	"raptorpack/ids"
	"raptorpack/pool"
	"raptorpack/proto/buspb"
)

const nodeCount = 5

// enrolled puts so many clients into the ledger.
func (p *ledgers) enrolled(ctx context.Context, identities *pool.Identities, count int) ([]ids.Client, error) {
	var all []ids.Client
	for len(all) < count {
		var changes buspb.ClientChanges
		for range min(500, count-len(all)) {
			identity, err := identities.At(len(all))
			if err != nil {
				return nil, err
			}
			all = append(all, identity.ID)
			changes.Changes = append(changes.Changes, &buspb.ClientChange{Change: &buspb.ClientChange_Enrol{Enrol: &buspb.ClientEnrol{
				Client: identity.ID.String(), PublicKey: x509.MarshalPKCS1PublicKey(&identity.Key.PublicKey),
			}}})
		}
		body, err := proto.Marshal(&changes)
		if err != nil {
			return nil, err
		}
		if err := p.nodes[0].node.Propose(ctx, &buspb.Mutation{Kind: clients.Kind, Body: body}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// applied waits until all nodes stand at an index.
func (p *ledgers) applied(ctx context.Context, index uint64) error {
	for _, l := range p.nodes {
		if err := l.node.WaitApplied(ctx, index); err != nil {
			return err
		}
	}
	return nil
}

// labels measures changes through the ledgers of five nodes.
func (b *bench) labels(ctx context.Context) error {
	p, err := openLedgers(ctx, filepath.Join(b.out, "labels"), nodeCount)
	if err != nil {
		return err
	}
	fleet, err := p.enrolled(ctx, b.identities, min(1000, b.identities.Count()))
	for _, measure := range []func(context.Context, *ledgers, []ids.Client) error{b.labelLatency, b.labelsEach, b.labelsInBatches} {
		if err == nil {
			err = measure(ctx, p, fleet)
		}
	}
	return errors.Join(err, p.end())
}

// labelFor is how long a rate of changes is measured.
const labelFor = 10 * time.Second

// labelLatency is from a label's proposal at any node to its being applied at all.
func (b *bench) labelLatency(ctx context.Context, p *ledgers, fleet []ids.Client) error {
	var took []time.Duration
	for i := range 1000 {
		from := p.nodes[i%len(p.nodes)]
		m, err := from.room.PlanLabels(ids.RootOrg, fleet[i%len(fleet):i%len(fleet)+1], []string{fmt.Sprint("l", i%50)}, nil)
		if err != nil {
			return err
		}
		begin := time.Now()
		index, err := from.node.ProposeIndex(ctx, m)
		if err != nil {
			return err
		}
		if err := p.applied(ctx, index); err != nil {
			return err
		}
		took = append(took, time.Since(begin))
		time.Sleep(5 * time.Millisecond)
	}
	b.percentiles("label proposed to applied on 5 nodes, in one process", took, 0, 0)
	return nil
}

// percentiles adds figures of p50 and p99 in milliseconds; an aim of 0 is none.
func (b *bench) percentiles(what string, took []time.Duration, half, most float64) {
	slices.Sort(took)
	at := func(percent int) float64 { return took[(len(took)*percent-1)/100].Seconds() * 1000 }
	samples := fmt.Sprintf("%d, max %.1f ms", len(took), took[len(took)-1].Seconds()*1000)
	b.add(figure{what: what + ", p50", aim: half, unit: "ms", measured: at(50), samples: samples})
	b.add(figure{what: what + ", p99", aim: most, unit: "ms", measured: at(99), samples: samples})
}

// labelsEach has every change proposed and answered by itself.
func (b *bench) labelsEach(ctx context.Context, p *ledgers, fleet []ids.Client) error {
	return b.labelRate(ctx, p, "label changes applied on 5 nodes, each its own request and answer", 10_000, 400, 1, func(from *ledger, i int) (*buspb.Mutation, error) {
		at := i % len(fleet)
		return from.room.PlanLabels(ids.RootOrg, fleet[at:at+1], []string{fmt.Sprint("l", i%50)}, nil)
	})
}

// labelsInBatches names many clients in one change.
func (b *bench) labelsInBatches(ctx context.Context, p *ledgers, fleet []ids.Client) error {
	return b.labelRate(ctx, p, "label changes applied on 5 nodes, in batches of 1,000", 100_000, 2*len(p.nodes), len(fleet), func(from *ledger, i int) (*buspb.Mutation, error) {
		return from.room.PlanLabels(ids.RootOrg, fleet, []string{fmt.Sprint("b", i%50)}, []string{fmt.Sprint("b", (i+1)%50)})
	})
}

func (b *bench) labelRate(ctx context.Context, p *ledgers, what string, aim float64, callers, each int, plan func(*ledger, int) (*buspb.Mutation, error)) error {
	life, cancel := context.WithTimeout(ctx, labelFor)
	defer cancel()
	var done atomic.Int64
	g, work := errgroup.WithContext(ctx)
	begin := time.Now()
	for w := range callers {
		from := p.nodes[w%len(p.nodes)]
		g.Go(func() error {
			for i := w; life.Err() == nil; i += callers + 1 {
				m, err := plan(from, i)
				if err == nil {
					err = from.node.Propose(work, m)
				}
				if err != nil {
					return err
				}
				done.Add(int64(each))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	_, index, _ := p.nodes[0].node.Position()
	if err := p.applied(ctx, index); err != nil {
		return err
	}
	rate := float64(done.Load()) / time.Since(begin).Seconds()
	b.add(figure{what: what, aim: aim, more: true, unit: "1/s", measured: rate, samples: fmt.Sprintf("%d in %v", done.Load(), labelFor)})
	return nil
}

// busCut measures how soon a node whose master was out of reach has caught up.
func (b *bench) busCut(ctx context.Context) error {
	p, err := openLedgers(ctx, filepath.Join(b.out, "cut"), 3)
	if err != nil {
		return err
	}
	fleet, err := p.enrolled(ctx, b.identities, 100)
	var took []time.Duration
	for range 10 {
		if err == nil {
			err = b.cutOnce(ctx, p, fleet, &took)
		}
	}
	if err == nil {
		slices.Sort(took)
		b.add(figure{
			what: "bus cut 10 s, restored, to caught up, the slowest", aim: 200, unit: "ms", measured: took[len(took)-1].Seconds() * 1000,
			samples: fmt.Sprintf("%d cuts, median %v", len(took), took[len(took)/2]),
		})
	}
	return errors.Join(err, p.end())
}

func (b *bench) cutOnce(ctx context.Context, p *ledgers, fleet []ids.Client, took *[]time.Duration) error {
	p.nodes[0].link.set(true) // nobody gets through to the master
	until := time.Now().Add(10 * time.Second)
	for i := 0; time.Now().Before(until); i++ {
		at := i % len(fleet)
		m, err := p.nodes[0].room.PlanLabels(ids.RootOrg, fleet[at:at+1], []string{fmt.Sprint("l", i%50)}, nil)
		if err == nil {
			err = p.nodes[0].node.Propose(ctx, m)
		}
		if err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	_, index, _ := p.nodes[0].node.Position()
	begin := time.Now()
	p.nodes[0].link.set(false)
	if err := p.applied(ctx, index); err != nil {
		return err
	}
	*took = append(*took, time.Since(begin))
	return nil
}
