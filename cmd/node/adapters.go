package node

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"raptorpack/artifacts"
	"raptorpack/clients"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/frontend"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
)

// lateCommitter breaks the ring of construction: the committer needs the ledger's
// outbox, the ledger needs the table of flows, and flows need the committer. It is
// filled before anything runs.
type lateCommitter struct{ *filestore.Committer }

// tenants knows the one org that works today.
type tenants struct{ nonce string }

func (t tenants) Org(nonce string) (ids.Org, bool) { return ids.RootOrg, nonce == t.nonce }

func (t tenants) Nonce(org ids.Org) (string, bool) { return t.nonce, org == ids.RootOrg }

// keys lets the frontend look up and pin keys of clients.
type keys struct{ n *Node }

func (k *keys) Key(_ context.Context, org ids.Org, client ids.Client) (*rsa.PublicKey, error) {
	key, err := k.n.clients.Key(org, client)
	if errors.Is(err, clients.ErrUnknownClient) {
		return nil, wire.ErrNoKey
	}
	return key, err
}

var (
	errKnown = errors.New("the client has a key")
	errStale = errors.New("this node's state is too old to say that a client is unknown")
)

// ConfirmAbsent says so only of a state that is as new as the proof asks.
func (k *keys) ConfirmAbsent(ctx context.Context, org ids.Org, client ids.Client, proof frontend.Proof) error {
	if proof == frontend.Confirmed {
		if err := k.n.fresh(ctx); err != nil {
			return err
		}
	} else if age, known := k.n.ledger.Age(); !known || age > staleAfter {
		return errStale
	}
	if _, err := k.Key(ctx, org, client); !errors.Is(err, wire.ErrNoKey) {
		return errors.Join(errKnown, err)
	}
	return nil
}

func (k *keys) Enrol(ctx context.Context, e frontend.Enrolment) error {
	m, err := k.n.clients.PlanEnrol(e.Org, clients.Enrolment{Client: e.Client, Key: e.Key})
	if err != nil {
		return fmt.Errorf("%w: %w", frontend.ErrRefused, err)
	}
	err = k.n.ledger.Propose(ctx, m)
	if errors.Is(err, clients.ErrKeyPinned) {
		return fmt.Errorf("%w: %w", frontend.ErrPinned, err)
	}
	return err
}

// intake lets the frontend hand over what clients send.
type intake struct {
	n *Node

	// noting is held from a look at the board until the clients room knows of it,
	// so that an older look never overtakes a newer one.
	noting sync.Mutex
}

func (c *intake) Ingest(ctx context.Context, peer frontend.Peer, messages []*wirepb.VeloMessage) error {
	return c.n.flows.Ingest(ctx, flows.Peer{Org: peer.Org, Client: peer.Client, Received: peer.Received}, messages)
}

func (c *intake) DeadLetter(ctx context.Context, peer frontend.Peer, reason string, data []byte) error {
	return c.n.flows.DeadLetter(ctx, flows.Peer{Org: peer.Org, Client: peer.Client, Received: peer.Received}, reason, data)
}

// Attach also tells the clients room who is online, soft state for search, and has
// the foreman look which hunts want the client.
func (c *intake) Attach(org ids.Org, client ids.Client) frontend.Attachment {
	c.note(org, client)
	a := &attachment{c.n.flows.Attach(org, client), c, org, client}
	c.n.foreman.Arrived(org, client)
	return a
}

// note tells the clients room what the board says, whoever came or went.
func (c *intake) note(org ids.Org, client ids.Client) {
	c.noting.Lock()
	defer c.noting.Unlock()
	c.n.clients.SetOnline(org, client, c.n.board.Connected(org, client))
}

type attachment struct {
	*flows.Attachment
	collections *intake
	org         ids.Org
	client      ids.Client
}

func (a *attachment) Close() {
	a.Attachment.Close()
	a.collections.note(a.org, a.client)
}

// selfReports turns what an agent tells of its host into a change of its record.
type selfReports struct{ n *Node }

func (s selfReports) PlanInfo(org ids.Org, client ids.Client, line []byte, _ time.Time) (*buspb.Mutation, error) {
	return s.n.clients.PlanInfo(org, client, line, ids.Flow{}, nil)
}

func (n *Node) flowOptions(c *lateCommitter) flows.Options {
	d := n.o.Config.Defaults
	return flows.Options{
		Committer: c, Store: n.store, Reader: n.reader, Tails: n.reader, Grown: n.storedEvents, Incarnation: n.incarnation.Name(),
		Hunts: n.hunts, Info: selfReports{n}, Wake: func(org ids.Org, client ids.Client) { n.board.Wake(org, client) },
		Labels: func(org ids.Org, client ids.Client) []string {
			labels, err := n.clients.Labels(org, client)
			if err != nil {
				return nil // deleted meanwhile
			}
			return labels
		},
		Ended:       func(key flows.Key) { n.interrogate.Ended(key.Org, key.Client, key.Flow) },
		Finished:    n.queues.FlowsFinished,
		Heard:       n.asker.Heard,
		Fresh:       n.fresh,
		Untold:      func(ctx context.Context) ([]*buspb.Mutation, error) { return n.ledger.Untold(ctx) },
		Concurrency: n.o.Config.Client.Concurrency, Silence: n.silence(),
		Defaults:   flows.Limits{Rows: int64(d.MaxRows), Logs: int64(d.MaxLogs)},
		Registerer: n.registry, Logger: n.component("flows"),
	}
}

func (n *Node) silence() time.Duration {
	switch {
	case n.o.Tune.Silence != 0:
		return n.o.Tune.Silence
	case n.o.Config.Defaults.DisableInflightChecks:
		return 10 * 365 * 24 * time.Hour // nobody is asked
	}
	return time.Duration(n.o.Config.Defaults.InflightCheckSeconds) * time.Second
}

// clientChanged follows the clients room from Apply's goroutine.
func (n *Node) clientChanged(org ids.Org, client ids.Client, what clients.Change) {
	switch what {
	case clients.Enrolled:
		n.interrogate.Enrolled(org, client)
	case clients.Labelled:
		n.flows.LabelsChanged(org, client)
	case clients.Deleted:
		if n.frontend != nil { // not while the ledger is replayed at the start
			n.frontend.Forget(org, client)
		}
	}
}

// The interrogation's artifact; an operator may put a custom one before it.
const (
	infoArtifact = "Generic.Client.Info"
	basicSource  = "BasicInformation"
	usersSource  = "Users"
)

func (n *Node) interrogatorOptions() clients.InterrogatorOptions {
	return clients.InterrogatorOptions{
		Room: n.clients, Start: n.startInterrogation, Read: n.readInterrogation,
		Propose: func(ctx context.Context, m *buspb.Mutation) error { return n.ledger.Propose(ctx, m) },
		Logger:  n.component("clients"),
	}
}

func (n *Node) startInterrogation(ctx context.Context, org ids.Org, who []ids.Client) (ids.Flow, error) {
	request, err := n.artifacts.Repository(org).Compile(artifacts.Collect{
		Artifacts: []artifacts.Spec{{Name: infoArtifact}}, AllowCustom: true, ClearNames: n.o.Config.Frontend.DoNotCompressArtifacts,
		Tools: n.toolVariables, Metadata: n.clients.ServerMetadata(org),
	})
	if err != nil {
		return ids.Flow{}, err
	}
	m, flow, err := flows.PlanStart(flows.Start{
		Org: org, Clients: who, Creator: "InterrogationService", Artifacts: []flows.Artifact{{Name: infoArtifact}},
		Request: &wirepb.FlowRequest{
			VqlClientActions: request.Queries, MaxRows: request.MaxRows, MaxUploadBytes: request.MaxUploadBytes,
			LogErrorRegex: n.o.Config.Frontend.CollectionErrorRegex,
		},
		Names: request.Names,
	})
	if err != nil {
		return ids.Flow{}, err
	}
	return flow, n.ledger.Propose(ctx, m)
}

func (n *Node) readInterrogation(ctx context.Context, org ids.Org, client ids.Client, flow ids.Flow) (*clients.Answers, error) {
	key := flows.Key{Org: org, Client: client, Flow: flow}
	record, err := n.flows.Flow(key)
	if errors.Is(err, flows.ErrNotFound) {
		return &clients.Answers{}, nil // deleted meanwhile
	}
	if err != nil {
		return nil, err
	}
	if !record.State.Final() {
		return nil, clients.ErrUnfinished
	}
	answers := &clients.Answers{}
	basic, err := n.answer(ctx, record, basicSource, 1)
	if err != nil {
		return nil, err
	}
	if len(basic) > 0 {
		answers.Basic = basic[0]
	}
	accounts, err := n.answer(ctx, record, usersSource, 256)
	if err != nil {
		return nil, err
	}
	for _, line := range accounts {
		var account struct{ Name string }
		if json.Unmarshal(line, &account) == nil && account.Name != "" {
			answers.Users = append(answers.Users, account.Name)
		}
	}
	return answers, nil
}

// answer reads what a source found. Its result bears the name of whichever
// artifact was collected, be it a custom one.
func (n *Node) answer(ctx context.Context, f *flows.Flow, source string, limit int) ([][]byte, error) {
	results := f.Spec.Results()
	at := slices.IndexFunc(results, func(name string) bool { return strings.HasSuffix(name, "/"+source) })
	if at < 0 {
		return nil, nil // a custom artifact without that source
	}
	page, err := n.flows.Results(ctx, f.Key, results[at], flows.Page{Limit: limit})
	if errors.Is(err, flows.ErrNotFound) {
		return nil, nil // deleted meanwhile
	}
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, row := range page.Rows {
		out = append(out, row.Line)
	}
	return out, nil
}
