package main

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"raptorpack/clients"
	"raptorpack/ids"
)

// million measures how a node starts and is searched that has very many clients.
func (b *bench) million(ctx context.Context) error {
	p, err := b.newLedger(ctx, "million")
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := errors.Join(p.settle(ctx, b.settings.known, unownedKey), p.end()); err != nil {
		return err
	}
	b.note("million: ledger of %d clients written in %.0f s", b.settings.known, time.Since(begin).Seconds())
	begin = time.Now()
	s, err := b.startOn(ctx, "million", false)
	if err != nil {
		return err
	}
	samples := fmt.Sprintf("%d clients", b.settings.known)
	b.add(figure{what: "start of a node with many clients to ready", aim: 10, unit: "s", measured: time.Since(begin).Seconds(), samples: samples})
	err = b.searches(ctx, s, " straight after the start, beside the index being made", 0, 0)
	if err == nil {
		err = s.quiet(ctx)
	}
	if err == nil {
		err = b.searches(ctx, s, "", 20, 100)
	}
	if err == nil {
		err = b.peak(s, samples)
	}
	return errors.Join(err, s.stop())
}

var errNobody = errors.New("the search finds nobody")

// peak is the most memory that the server ever had.
func (b *bench) peak(s *server, samples string) error {
	bytes, err := s.memory("VmHWM:")
	b.add(figure{what: "  its memory at most", aim: 1500, unit: "MB", measured: float64(bytes) / 1e6, samples: samples})
	return err
}

// searches asks the door for clients as operators do; many and few are the aims for
// words of three letters and more, and of fewer.
func (b *bench) searches(ctx context.Context, s *server, when string, many, few float64) error {
	for _, kind := range []struct {
		what  string
		aim   float64
		words []string
	}{
		{"search for three letters and more through the door", many, []string{"web", "host:web-ber*", "build-sin-0001234", "user:ada", "label:tier3", "os:linux", "ber-0000"}},
		{"search for fewer", few, []string{"we", "b", "12"}},
	} {
		var took []time.Duration
		for i := range 210 {
			var found struct{ Total int }
			word := kind.words[i%len(kind.words)]
			begin := time.Now()
			if err := s.door.call(ctx, http.MethodGet, "/clients?limit=50&q="+url.QueryEscape(word), nil, &found); err != nil {
				return err
			}
			took = append(took, time.Since(begin))
			if found.Total == 0 {
				return fmt.Errorf("%q: %w", word, errNobody)
			}
		}
		b.percentiles(kind.what+when, took, 0, kind.aim)
	}
	return nil
}

// newLedger opens the ledger of an empty store, which a node or a pack of that name
// may run on when it has ended.
func (b *bench) newLedger(ctx context.Context, name string) (*ledgers, error) {
	dir := filepath.Join(b.out, name)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	return openLedgers(ctx, dir, 1)
}

// settle enrols many clients with their keys, and has them interrogated.
func (p *ledgers) settle(ctx context.Context, count int, key func(n int) (*rsa.PublicKey, error)) error {
	const each = 500
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for first := 0; first < count; first += each {
		g.Go(func() error { return p.nodes[0].settle(ctx, first, min(each, count-first), key) })
	}
	return g.Wait()
}

func (l *ledger) settle(ctx context.Context, first, count int, key func(n int) (*rsa.PublicKey, error)) error {
	var enrolments []clients.Enrolment
	var fleet []ids.Client
	for n := first; n < first+count; n++ {
		key, err := key(n)
		if err != nil {
			return err
		}
		client := ids.ClientOfKey(key)
		enrolments, fleet = append(enrolments, clients.Enrolment{Client: client, Key: key}), append(fleet, client)
	}
	m, err := l.room.PlanEnrol(ids.RootOrg, enrolments...)
	if err != nil {
		return err
	}
	if err := l.node.Propose(ctx, m); err != nil {
		return err
	}
	flow := ids.NewFlow(time.Now())
	if m, err = l.room.PlanInterrogated(ids.RootOrg, fleet, flow); err != nil {
		return err
	}
	if err := l.node.Propose(ctx, m); err != nil {
		return err
	}
	g, work := errgroup.WithContext(ctx)
	for i, client := range fleet {
		g.Go(func() error { return l.inform(work, client, flow, first+i) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if m, err = l.room.PlanLabels(ids.RootOrg, fleet, []string{fmt.Sprint("tier", first/count%10)}, nil); err != nil {
		return err
	}
	return l.node.Propose(ctx, m)
}

// unownedKey looks like an agent's, another for each n; nobody has the other half.
func unownedKey(n int) (*rsa.PublicKey, error) {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	digits := make([]byte, 256)
	for i := range digits {
		digits[i] = byte(r.Uint32())
	}
	digits[0] |= 0x80
	digits[255] |= 1
	return &rsa.PublicKey{N: new(big.Int).SetBytes(digits), E: 65537}, nil
}

var (
	roles = []string{"web", "db", "app", "mail", "build"}
	sites = []string{"ber", "nyc", "sin", "syd"}
	users = []string{"ada", "alan", "grace", "edsger", "barbara"}
)

func (l *ledger) inform(ctx context.Context, client ids.Client, flow ids.Flow, i int) error {
	host := fmt.Sprintf("%s-%s-%07d", roles[i%len(roles)], sites[i%len(sites)], i)
	row := fmt.Sprintf(`{"Hostname":%q,"Fqdn":"%s.example.com","OS":"linux","Platform":"debian","PlatformVersion":"12.%d","Architecture":"amd64",`+
		`"Version":"0.7%d","Name":"velociraptor","MACAddresses":["52:54:00:%02x:%02x:%02x"]}`, host, host, i%9, i%4, i>>16&0xff, i>>8&0xff, i&0xff)
	m, err := l.room.PlanInfo(ids.RootOrg, client, []byte(row), flow, []string{"root", users[i%len(users)]})
	if err != nil {
		return err
	}
	return l.node.Propose(ctx, m)
}
