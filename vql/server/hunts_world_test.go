package server_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"raptorpack/clients"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
	"raptorpack/vql/server"
)

// huntWorld is a world with a third client, where hunts are managed.
type huntWorld struct {
	*world
	three   ids.Client
	manager *hunts.Manager
	steps   int
}

func newHuntWorld(t testing.TB) *huntWorld {
	t.Helper()
	w := &huntWorld{world: newWorld(t), three: ids.ClientOfKey(&keys[2].PublicKey)}
	w.apply(w.clients.PlanEnrol(ids.RootOrg, clients.Enrolment{Client: w.three, Key: &keys[2].PublicKey}))
	w.manager = hunts.NewManager(hunts.ManagerOptions{
		Room: w.hunts, Flows: w.flows, Propose: w.Propose, Connected: func(ids.Org, ids.Client) bool { return true },
		Now: func() time.Time { return time.Now().Add(time.Duration(w.steps) * time.Minute) }, // each step is due for everything
	})
	return w
}

// manage does what the master does about hunts.
func (w *huntWorld) manage() {
	w.t.Helper()
	w.steps++
	_, err := w.manager.Step(w.t.Context())
	must(w.t, err)
}

func (w *world) createHunt(_ context.Context, wish server.Hunt) (ids.Hunt, error) {
	w.mu.Lock()
	w.wants = append(w.wants, wish)
	w.mu.Unlock()
	tags, err := hunts.ParseTags(wish.Tags)
	if err != nil {
		return ids.Hunt{}, err
	}
	m, hunt, err := w.hunts.PlanCreate(hunts.Create{
		Settings: hunts.Settings{Description: wish.Description, Expires: wish.Expires, Tags: tags}, Collect: w.compile(wish.Artifacts), Start: wish.Start,
		Conditions: hunts.Conditions{Include: wish.IncludeLabels, Exclude: wish.ExcludeLabels, OS: wish.OS},
	}, time.Now())
	if err != nil {
		return ids.Hunt{}, err
	}
	return hunt, w.ledger.Propose(m)
}

// hunt starts a hunt on clients.
func (w *huntWorld) hunt(artifact string, members ...ids.Client) hunts.Key {
	w.t.Helper()
	hunt, err := w.createHunt(w.t.Context(), server.Hunt{
		Collection: server.Collection{Artifacts: []flows.Artifact{{Name: artifact}}}, Description: "test", Start: true,
	})
	must(w.t, err)
	key := hunts.Key{Hunt: hunt}
	if len(members) > 0 {
		w.apply(w.hunts.PlanAdd(key, members, "ada", time.Now()))
		w.manage()
	}
	return key
}

// flowOf is a client's first attempt.
func flowOf(key hunts.Key, client ids.Client) flows.Key {
	return flows.Key{Client: client, Flow: key.Hunt.Flow(0)}
}

// told is a row of a hunt as hunt_results() shows it.
func told(row string, key flows.Key, fqdn string) string {
	return fmt.Sprintf(`{%s"FlowId":%q,"ClientId":%q,"Fqdn":%q,"_OrgId":"root"}`, row, key.Flow, key.Client, fqdn)
}

// failed ends a flow with an error.
func failed() *wirepb.VeloMessage {
	return &wirepb.VeloMessage{FlowStats: &wirepb.FlowStats{FlowComplete: true, QueryStatus: []*wirepb.VeloStatus{{
		Status: wirepb.VeloStatus_GENERIC_ERROR, ErrorMessage: "broke", FirstActive: 1_000_000, Duration: 5,
	}}}}
}

// refusing is a ledger that takes nothing.
type refusing struct{}

func (refusing) Propose(context.Context, *buspb.Mutation) error { return errors.New("no ledger today") }
