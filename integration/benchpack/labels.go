package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/clients"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

const nodeCount = 5

// enrolled puts so many clients into the ledger.
func (p *ledgers) enrolled(ctx context.Context, count int) ([]ids.Client, error) {
	var all []ids.Client
	for len(all) < count {
		var changes buspb.ClientChanges
		for range min(500, count-len(all)) {
			key, err := rsa.GenerateKey(rand.Reader, 1024)
			if err != nil {
				return nil, err
			}
			client := ids.ClientOfKey(&key.PublicKey)
			all = append(all, client)
			changes.Changes = append(changes.Changes, &buspb.ClientChange{Change: &buspb.ClientChange_Enrol{Enrol: &buspb.ClientEnrol{
				Client: client.String(), PublicKey: x509.MarshalPKCS1PublicKey(&key.PublicKey),
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

func labels(ctx context.Context, seconds int) error {
	dir, err := os.MkdirTemp("", "benchpack")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := openLedgers(ctx, dir, nodeCount)
	if err != nil {
		return err
	}
	defer func() { note("end", p.end()) }()
	fleet, err := p.enrolled(ctx, 1000)
	if err != nil {
		return err
	}
	if err := p.latency(ctx, fleet); err != nil {
		return err
	}
	if err := p.each(ctx, fleet, time.Duration(seconds)*time.Second); err != nil {
		return err
	}
	return p.batches(ctx, fleet, time.Duration(seconds)*time.Second)
}

// latency is from a label's proposal at any node to its being applied at all.
func (p *ledgers) latency(ctx context.Context, fleet []ids.Client) error {
	var took []time.Duration
	for i := range 1000 {
		from := p.nodes[i%len(p.nodes)]
		m, err := from.room.PlanLabels(ids.RootOrg, []ids.Client{fleet[i%len(fleet)]}, []string{fmt.Sprint("l", i%50)}, nil)
		if err != nil {
			return err
		}
		begin := time.Now()
		index, err := from.node.ProposeIndex(ctx, m)
		if err != nil {
			return err
		}
		for _, l := range p.nodes {
			if err := l.node.WaitApplied(ctx, index); err != nil {
				return err
			}
		}
		took = append(took, time.Since(begin))
		time.Sleep(5 * time.Millisecond)
	}
	slices.Sort(took)
	fmt.Printf("label proposed to applied on %d nodes: p50 %v p99 %v max %v\n", len(p.nodes), took[500], took[989], took[999])
	return nil
}

// each has every label change proposed and answered by itself.
func (p *ledgers) each(ctx context.Context, fleet []ids.Client, during time.Duration) error {
	life, cancel := context.WithTimeout(ctx, during)
	defer cancel()
	var done atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	for w := range 400 {
		from := p.nodes[w%len(p.nodes)]
		all.Go(func() {
			for i := w; life.Err() == nil; i += 401 {
				m, err := from.room.PlanLabels(ids.RootOrg, []ids.Client{fleet[i%len(fleet)]}, []string{fmt.Sprint("l", i%50)}, nil)
				if err == nil {
					err = from.node.Propose(ctx, m)
				}
				if err != nil {
					note(from.name, err)
					return
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	p.settle(ctx)
	fmt.Printf("label changes, each its own request and answer: %.0f/s\n", float64(done.Load())/time.Since(begin).Seconds())
	return nil
}

// batches names many clients in one change.
func (p *ledgers) batches(ctx context.Context, fleet []ids.Client, during time.Duration) error {
	life, cancel := context.WithTimeout(ctx, during)
	defer cancel()
	var done atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	for w := range 2 * len(p.nodes) {
		from := p.nodes[w%len(p.nodes)]
		all.Go(func() {
			for i := w; life.Err() == nil; i++ {
				m, err := from.room.PlanLabels(ids.RootOrg, fleet, []string{fmt.Sprint("b", i%50)}, []string{fmt.Sprint("b", (i+1)%50)})
				if err == nil {
					err = from.node.Propose(ctx, m)
				}
				if err != nil {
					note(from.name, err)
					return
				}
				done.Add(int64(len(fleet)))
			}
		})
	}
	all.Wait()
	p.settle(ctx)
	fmt.Printf("label changes in batches of %d: %.0f/s\n", len(fleet), float64(done.Load())/time.Since(begin).Seconds())
	return nil
}

// settle waits until all nodes stand where the first does.
func (p *ledgers) settle(ctx context.Context) {
	_, index, _ := p.nodes[0].node.Position()
	for _, l := range p.nodes {
		note(l.name, l.node.WaitApplied(ctx, index))
	}
}

// cut measures how soon a node whose bus was away has caught up.
func cut(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "benchpack")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := openLedgers(ctx, dir, 3)
	if err != nil {
		return err
	}
	defer func() { note("end", p.end()) }()
	fleet, err := p.enrolled(ctx, 100)
	if err != nil {
		return err
	}
	var took []time.Duration
	for range 5 {
		p.nodes[0].link.set(true) // nobody gets through to the master
		until := time.Now().Add(10 * time.Second)
		for i := 0; time.Now().Before(until); i++ {
			m, err := p.nodes[0].room.PlanLabels(ids.RootOrg, []ids.Client{fleet[i%len(fleet)]}, []string{fmt.Sprint("l", i%50)}, nil)
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
		if err := p.nodes[2].node.WaitApplied(ctx, index); err != nil {
			return err
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	fmt.Printf("bus cut 10 s, restored, to caught up: %v\n", took)
	return nil
}
