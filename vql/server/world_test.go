package server_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"raptorpack/artifacts"
	"raptorpack/clients"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/notebooks"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
	"raptorpack/users"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
	"raptorpack/vql/server"
)

var keys []*rsa.PrivateKey

func TestMain(m *testing.M) {
	for range 3 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		keys = append(keys, key)
	}
	goleak.VerifyTestMain(m)
}

// world is one node's rooms on a real store, with a ledger in memory.
type world struct {
	t      testing.TB
	ledger *flowstest.Ledger
	store  *filestore.Store

	clients   *clients.Room
	flows     *flows.Room
	hunts     *hunts.Room
	artifacts *artifacts.Room
	users     *users.Room
	notebooks *notebooks.Room
	timelines []*notebooks.Files // of each node
	engine    *vql.Engine

	other    *flows.Room // of a second node on the same files
	one, two ids.Client  // enrolled

	mu    sync.Mutex
	audit []string
	asked []server.Collection
	wants []server.Hunt
}

const listing = `name: Linux.Test.Listing
description: Two sources.
author: somebody
parameters:
  - {name: Path, default: /}
  - {name: Deep, type: bool}
  - {name: Table, type: csv}
  - {name: Names, type: json_array}
  - {name: Key, type: redacted}
sources:
  - {name: Files, query: "SELECT * FROM glob(globs=Path)"}
  - {name: Users, query: "SELECT * FROM scope()"}
`

const procs = `name: Linux.Test.Procs
parameters:
  - {name: Path}
sources:
  - query: SELECT * FROM Artifact.Linux.Test.Listing(source='Files')
`

type outbox func([]*buspb.Mutation) error

func (o outbox) AppendSync(_ context.Context, facts []*buspb.Mutation) error { return o(facts) }

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, ledger: flowstest.NewLedger(), clients: clients.New(nil), users: users.New()}
	w.hunts = hunts.New(hunts.Options{Clients: w.clients})
	w.notebooks = notebooks.New(notebooks.Options{})
	w.clients.Follow(w.hunts.ClientChanged)
	dir := t.TempDir()
	w.store, w.flows = w.node(dir, "n1-1", w.hunts)
	w.other = w.otherNode(dir)
	builtIn := artifacts.NewRepository(nil)
	for _, text := range []string{listing, procs, logins} {
		d, err := artifacts.Parse("a.yaml", []byte(text))
		must(t, err)
		d.BuiltIn = true
		must(t, builtIn.Add(d))
	}
	w.artifacts = artifacts.NewRoom(builtIn)
	must(t, w.ledger.Join(w.clients, w.hunts, w.flows.Table, w.flows.Events, w.flows.Server, w.flows.Erased, w.artifacts, w.users, w.notebooks))
	functions, plugins := server.Guard(endpoint.Functions(), endpoint.Plugins())
	var err error
	w.engine, err = vql.NewEngine(append(functions, server.Functions()...), append(plugins, server.Plugins()...))
	must(t, err)
	w.enrol()
	return w
}

// node opens the filestore as one node does, with a room that takes what clients send
// it.
func (w *world) node(dir, incarnation string, room *hunts.Room) (*filestore.Store, *flows.Room) {
	w.t.Helper()
	store, err := filestore.Open(dir, filestore.Options{})
	must(w.t, err)
	committer, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: store, Incarnation: incarnation, Valid: func() bool { return true }, Outbox: outbox(w.ledger.Outbox),
	})
	must(w.t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1) // one value: how it ended
	go func() { ended <- committer.Run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		must(w.t, <-ended)
		must(w.t, store.Close(context.Background()))
	})
	reader := filestore.NewReader(filestore.ReaderOptions{Store: store})
	w.timelines = append(w.timelines, notebooks.NewFiles(notebooks.FilesOptions{Store: store, Reader: reader, Committer: committer}))
	return store, flows.New(flows.Options{
		Committer: committer, Reader: reader, Tails: reader, Store: store, Incarnation: incarnation, Hunts: room,
	})
}

// otherNode is a second node on the same files, with rooms of its own.
func (w *world) otherNode(dir string) *flows.Room {
	w.t.Helper()
	known := clients.New(nil)
	room := hunts.New(hunts.Options{Clients: known})
	known.Follow(room.ClientChanged)
	_, other := w.node(dir, "n2-1", room)
	must(w.t, w.ledger.Join(known, room, other.Table, other.Erased))
	return other
}

func (w *world) enrol() {
	w.t.Helper()
	w.one, w.two = ids.ClientOfKey(&keys[0].PublicKey), ids.ClientOfKey(&keys[1].PublicKey)
	w.apply(w.clients.PlanEnrol(ids.RootOrg, clients.Enrolment{Client: w.one, Key: &keys[0].PublicKey}, clients.Enrolment{Client: w.two, Key: &keys[1].PublicKey}))
	w.apply(w.clients.PlanInfo(ids.RootOrg, w.one, []byte(`{"Hostname":"web-1","OS":"linux","Fqdn":"web-1.example","Version":"0.1","Name":"raptor"}`), ids.Flow{}, nil))
	w.apply(w.clients.PlanInfo(ids.RootOrg, w.two, []byte(`{"Hostname":"db-1","OS":"linux"}`), ids.Flow{}, nil))
}

func (w *world) apply(m *buspb.Mutation, err error) {
	w.t.Helper()
	must(w.t, err)
	must(w.t, w.ledger.Propose(m))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Propose implements server.Proposer.
func (w *world) Propose(ctx context.Context, m *buspb.Mutation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.ledger.Propose(m)
}

func (w *world) collect(_ context.Context, c server.Collection) (ids.Flow, error) {
	w.mu.Lock()
	w.asked = append(w.asked, c)
	w.mu.Unlock()
	return w.start(c.Client, c.Artifacts...).Flow, nil
}

// start makes a task whose results have clear names.
func (w *world) start(client ids.Client, named ...flows.Artifact) flows.Key {
	w.t.Helper()
	wish := w.compile(named)
	wish.Clients = []ids.Client{client}
	m, flow, err := flows.PlanStart(wish)
	w.apply(m, err)
	return flows.Key{Client: client, Flow: flow}
}

// compile is what runs on a client, with clear names.
func (w *world) compile(named []flows.Artifact) flows.Start {
	w.t.Helper()
	wish := artifacts.Collect{ClearNames: true}
	for _, a := range named {
		wish.Artifacts = append(wish.Artifacts, artifacts.Spec{Name: a.Name})
	}
	request, err := w.artifacts.Repository(ids.RootOrg).Compile(wish)
	must(w.t, err)
	return flows.Start{
		Creator: "ada", Artifacts: named, Names: request.Names,
		Request: &wirepb.FlowRequest{VqlClientActions: request.Queries},
	}
}

func (w *world) ingest(key flows.Key, messages ...*wirepb.VeloMessage) {
	w.t.Helper()
	w.ingestAt(w.flows, key, messages...)
}

func (w *world) ingestAt(node *flows.Room, key flows.Key, messages ...*wirepb.VeloMessage) {
	w.t.Helper()
	for _, m := range messages {
		m.SessionId = key.Flow.String()
	}
	must(w.t, node.Ingest(context.Background(), flows.Peer{Client: key.Client, Received: time.Now()}, messages))
	must(w.t, w.ledger.Deliver())
}

func numbered(name string, first, count int) *wirepb.VeloMessage {
	var b strings.Builder
	for i := first; i < first+count; i++ {
		fmt.Fprintf(&b, "{\"n\":%d}\n", i)
	}
	return lines(name, first, count, b.String())
}

func lines(name string, first, count int, text string) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{VqlResponse: &wirepb.VQLResponse{
		Query: &wirepb.VQLRequest{Name: name}, JsonlResponse: text, TotalRows: uint64(count), QueryStartRow: uint64(first),
	}}
}

func ended(rows, uploads int64) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{FlowStats: &wirepb.FlowStats{FlowComplete: true, QueryStatus: []*wirepb.VeloStatus{{
		Status: wirepb.VeloStatus_OK, ResultRows: rows, UploadedFiles: uploads, FirstActive: 1_000_000, Duration: 5,
	}}}}
}

// costing is an end that tells its processor time, as stock agents do not.
func costing(m *wirepb.VeloMessage, ns int64) *wirepb.VeloMessage {
	m.FlowStats.QueryStatus[0].CpuNs = proto.Int64(ns)
	return m
}

// session runs queries in the name of one account.
type session struct {
	t     testing.TB
	scope *vql.Scope

	mu   sync.Mutex
	logs []string
}

type roles []string

func (r roles) Allowed(permission string) bool {
	return slices.Contains(users.PermissionsOf(r), users.Permission(permission))
}

func (w *world) host(name string) *server.Host {
	return &server.Host{
		Principal: name, Clients: w.clients, Flows: w.flows, Artifacts: w.artifacts, Users: w.users, Ledger: w, Files: w.store,
		Notebooks: w.notebooks, Timelines: w.timelines[0],
		Hunts: w.hunts, Rows: filestore.NewReader(filestore.ReaderOptions{Store: w.store}),
		Collect: w.collect, CreateHunt: w.createHunt, Unasked: []string{"Linux.Test.Procs"},
		Audit: func(_ context.Context, operation, object string, details map[string]string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.audit = append(w.audit, fmt.Sprintf("%s %s %s %v", name, operation, object, details))
		},
		OrgInfo: func(ids.Org) server.OrgInfo {
			return server.OrgInfo{Nonce: "n0nce", ClientConfig: vql.NewDict().Set("version", 1).
				Set("Client", vql.NewDict().Set("server_urls", []string{"https://one/"}).Set("nonce", "n0nce"))}
		},
	}
}

func (w *world) as(name string, granted ...string) *session {
	w.t.Helper()
	return w.session(roles(granted), nil, w.host(name))
}

func (w *world) admin() *session { return w.as("ada", "administrator") }

func (w *world) session(p vql.Permissions, env *vql.Dict, services ...any) *session {
	w.t.Helper()
	s := &session{t: w.t}
	s.scope = w.engine.NewScope(vql.SessionOptions{
		Env: env, Services: services, Permissions: p, Accessors: server.Accessors(endpoint.Accessors()),
		Artifacts: w.artifacts.Repository(ids.RootOrg), Limits: vql.Limits{TempDir: w.t.TempDir()},
		Log: func(level, message string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.logs = append(s.logs, level+": "+message)
		},
	})
	w.t.Cleanup(s.scope.Close)
	return s
}

func (s *session) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.logs, "\n")
}

func (s *session) each(ctx context.Context, query string, emit func(*vql.Dict) error) error {
	s.t.Helper()
	program, err := vql.Parse(query)
	if err != nil {
		s.t.Fatalf("parse %s: %v", query, err)
	}
	return s.scope.RunProgram(ctx, program, emit)
}

func (s *session) rows(query string, args ...any) []string {
	s.t.Helper()
	var out []string
	err := s.each(s.t.Context(), fmt.Sprintf(query, args...), func(row *vql.Dict) error {
		out = append(out, string(vql.AppendJSON(nil, row)))
		return nil
	})
	if err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return out
}

// want runs a query; the last of query and want are its expected rows.
func (s *session) want(query string, want ...string) {
	s.t.Helper()
	got := s.rows("%s", query)
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		s.t.Errorf("%s\ngot:\n%s\nwant:\n%s\nlog:\n%s", query, strings.Join(got, "\n"), strings.Join(want, "\n"), s.log())
	}
}

func (s *session) wantLog(part string) {
	s.t.Helper()
	if !strings.Contains(s.log(), part) {
		s.t.Errorf("log does not hold %q:\n%s", part, s.log())
	}
}
