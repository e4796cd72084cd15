package flows

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zlib"
	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/internal/freelist"
	"raptorpack/internal/inflate"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

const (
	// maxRequest bounds a compiled request in the ledger, compressed, in bytes.
	maxRequest = 256 << 10

	// maxPlainRequest bounds it inflated.
	maxPlainRequest = 32 << 20

	maxResultName   = 1000 // bytes
	maxStartClients = 10_000

	// tickMillis is how often clients look for progress when a request does not
	// say. Very short ticks keep clients busy, 0 means 5 s to them.
	tickMillis    = 2000
	minTickMillis = 100
)

// Start is a wish to run one compiled request.
type Start struct {
	Org       ids.Org
	Clients   []ids.Client
	Flow      ids.Flow // zero: a new id
	Hunt      ids.Hunt // zero: a direct collection
	Creator   string
	Artifacts []Artifact
	Request   *wirepb.FlowRequest
	Names     map[string]string // token a client is told -> result name
	Limits    Limits            // 0: what the request says, then the server's default
	Urgent    bool              // beside the client's limit on running flows
}

// PlanStart checks a wish and returns the mutation that makes a task of it for
// each client. Every named statement must stand in Names, and no two parallel
// requests may use one name: a client counts rows per request, so the second
// would look like a resend of the first. It changes nothing. The error wraps
// ErrInvalid.
func PlanStart(s Start) (*buspb.Mutation, ids.Flow, error) {
	if s.Flow.IsZero() {
		s.Flow = ids.NewFlow(time.Now())
	}
	mutation, err := planStart(&s)
	if err != nil {
		return nil, ids.Flow{}, fmt.Errorf("plan flow %s: %w", s.Flow, err)
	}
	return mutation, s.Flow, nil
}

func planStart(s *Start) (*buspb.Mutation, error) {
	if err := checkClients(s.Clients); err != nil {
		return nil, err
	}
	if s.Flow == ids.Monitoring {
		return nil, fmt.Errorf("the session of event queries: %w", ErrInvalid)
	}
	spec, err := planSpec(s)
	if err != nil {
		return nil, err
	}
	return startMutation(s.Org, spec, s.Clients)
}

func checkClients(clients []ids.Client) error {
	if n := len(clients); n == 0 || n > maxStartClients {
		return fmt.Errorf("%d clients: %w", n, ErrInvalid)
	}
	if slices.ContainsFunc(clients, ids.Client.IsZero) {
		return fmt.Errorf("a client without an id: %w", ErrInvalid)
	}
	return nil
}

func planSpec(s *Start) (*buspb.FlowSpec, error) {
	if err := checkRequest(s.Request, s.Names); err != nil {
		return nil, err
	}
	request, err := PackRequest(s.Request)
	if err != nil {
		return nil, err
	}
	spec := &buspb.FlowSpec{
		Flow: s.Flow.String(), Hunt: s.Hunt.String(), Creator: s.Creator, Urgent: s.Urgent,
		Request: request, Limits: planLimits(s.Limits, s.Request),
	}
	for _, a := range s.Artifacts {
		one := &buspb.FlowArtifact{Name: a.Name}
		for _, p := range a.Parameters {
			one.Parameters = append(one.Parameters, &buspb.FlowParameter{Name: p.Name, Value: p.Value})
		}
		spec.Artifacts = append(spec.Artifacts, one)
	}
	for _, token := range slices.Sorted(maps.Keys(s.Names)) {
		spec.Names = append(spec.Names, &buspb.FlowName{Token: token, Name: s.Names[token]})
	}
	return spec, nil
}

func startMutation(org ids.Org, spec *buspb.FlowSpec, clients []ids.Client) (*buspb.Mutation, error) {
	start := &buspb.FlowStart{Spec: spec, Clients: make([]string, len(clients))}
	for i, c := range clients {
		start.Clients[i] = c.String()
	}
	return mutation(org, spec.Creator, &buspb.FlowChange{Change: &buspb.FlowChange_Start{Start: start}})
}

func checkRequest(request *wirepb.FlowRequest, names map[string]string) error {
	if len(request.GetVqlClientActions()) == 0 {
		return fmt.Errorf("no query: such a flow would never end: %w", ErrInvalid)
	}
	owner := map[string]int{}
	for i, action := range request.VqlClientActions {
		if len(action.Query) == 0 {
			return fmt.Errorf("query %d has no statement: %w", i+1, ErrInvalid)
		}
		for _, q := range action.Query {
			if q.Name == "" {
				continue
			}
			if _, ok := names[q.Name]; !ok {
				return fmt.Errorf("query %d: name %.60q stands for no result: %w", i+1, q.Name, ErrInvalid)
			}
			if other, ok := owner[q.Name]; ok && other != i {
				return fmt.Errorf("queries %d and %d both report as %q: %w", other+1, i+1, names[q.Name], ErrInvalid)
			}
			owner[q.Name] = i
		}
	}
	results := map[string]string{}
	for token, name := range names {
		if err := checkResultName(name); err != nil {
			return err
		}
		if other, ok := results[name]; ok {
			return fmt.Errorf("names %.60q and %.60q are one result %q: %w", min(token, other), max(token, other), name, ErrInvalid)
		}
		results[name] = token
	}
	return nil
}

func checkResultName(name string) error {
	bad := name == "" || len(name) > maxResultName || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/")
	if bad || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("result name %.60q: %w", name, ErrInvalid)
	}
	return nil
}

// planLimits takes what nobody said from the request itself.
func planLimits(l Limits, request *wirepb.FlowRequest) *buspb.FlowLimits {
	or := func(limit int64, asked uint64) int64 {
		if limit == 0 && asked < 1<<62 {
			return int64(asked)
		}
		return limit
	}
	return &buspb.FlowLimits{
		Rows: or(l.Rows, request.MaxRows), RowBytes: l.RowBytes, Uploads: l.Uploads,
		UploadBytes: or(l.UploadBytes, request.MaxUploadBytes), Logs: or(l.Logs, request.MaxLogs),
	}
}

// deflaters keeps compressors, each of which takes about a megabyte.
var deflaters = freelist.New(func() *zlib.Writer { return zlib.NewWriter(nil) })

// PackRequest serialises and compresses a request, as a flow's spec has it. The tick of a stock server,
// seconds where clients read milliseconds, is never passed on.
func PackRequest(request *wirepb.FlowRequest) ([]byte, error) {
	request = proto.CloneOf(request)
	if request.LogBatchTime == 0 {
		request.LogBatchTime = tickMillis
	}
	request.LogBatchTime = max(request.LogBatchTime, minTickMillis)
	plain, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("serialise request: %w: %w", ErrInvalid, err)
	}
	var packed bytes.Buffer
	z := deflaters.Get()
	defer deflaters.Put(z)
	defer z.Reset(nil)
	z.Reset(&packed)
	if _, err := z.Write(plain); err != nil {
		return nil, err // a buffer does not fail
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if packed.Len() > maxRequest || len(plain) > maxPlainRequest {
		return nil, fmt.Errorf("request has %d bytes, %d compressed, more than %d: %w", len(plain), packed.Len(), maxRequest, ErrInvalid)
	}
	return packed.Bytes(), nil
}

func unpackRequest(packed []byte) (*wirepb.FlowRequest, error) {
	z, err := inflate.NewReader(packed)
	if err != nil {
		return nil, fmt.Errorf("inflate request: %w", err)
	}
	defer z.Close()
	plain, err := io.ReadAll(io.LimitReader(z, maxPlainRequest+1))
	if err != nil {
		return nil, fmt.Errorf("inflate request: %w", err)
	}
	var request wirepb.FlowRequest
	if err := proto.Unmarshal(plain, &request); err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	return &request, nil
}

// PlanCancel returns the mutation that ends a flow, whether it runs or waits.
// The client is told until it confirms.
func (t *Table) PlanCancel(key Key, principal string) (*buspb.Mutation, error) {
	f, err := t.Flow(key)
	if err != nil {
		return nil, err
	}
	if f.State.Final() {
		return nil, fmt.Errorf("cancel flow %s of %s: %w", key.Flow, key.Client, ErrFinished)
	}
	change := &buspb.FlowChange{Change: &buspb.FlowChange_Cancel{Cancel: &buspb.FlowCancel{Key: key.proto()}}}
	return mutation(key.Org, principal, change)
}

// PlanDelete returns the mutation that forgets a flow that has ended.
func (t *Table) PlanDelete(key Key, principal string) (*buspb.Mutation, error) {
	f, err := t.Flow(key)
	if err != nil {
		return nil, err
	}
	if !f.State.Final() {
		return nil, fmt.Errorf("delete flow %s of %s: %w", key.Flow, key.Client, ErrUnfinished)
	}
	change := &buspb.FlowChange{Change: &buspb.FlowChange_Delete{Delete: &buspb.FlowDelete{Key: key.proto()}}}
	return mutation(key.Org, principal, change)
}

// PlanExpire returns, per org, the mutations that give up waiting for rows, as
// of now by the ledger's clock. The master proposes them about once a minute.
// Nothing to do is an empty slice.
func (t *Table) PlanExpire(now time.Time) ([]*buspb.Mutation, error) {
	due := map[ids.Org][]*buspb.FlowKey{}
	for _, key := range t.overdue(now) {
		if !key.Flow.IsZero() {
			due[key.Org] = append(due[key.Org], key.proto())
		} else if due[key.Org] == nil {
			due[key.Org] = []*buspb.FlowKey{}
		}
	}
	var out []*buspb.Mutation
	for _, org := range slices.SortedFunc(maps.Keys(due), func(a, b ids.Org) int { return compareText(a.String(), b.String()) }) {
		keys := due[org]
		for first := true; first || len(keys) > 0; first = false {
			n := min(len(keys), 1000)
			m, err := mutation(org, "", &buspb.FlowChange{Change: &buspb.FlowChange_Expire{Expire: &buspb.FlowExpire{Keys: keys[:n]}}})
			if err != nil {
				return nil, err
			}
			out, keys = append(out, m), keys[n:]
		}
	}
	return out, nil
}

// overdue lists waiting flows whose time is over, and a key without a flow if
// there are tombstones to forget.
func (t *Table) overdue(now time.Time) []Key {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []Key
	for key := range t.unfinished {
		if now.Sub(t.flow(key).WaitingSince) >= WaitForRows {
			out = append(out, key)
		}
	}
	slices.SortFunc(out, compareKeys)
	for _, d := range t.deleted {
		if now.Sub(d.at) >= tombstoneLife {
			return append(out, Key{Org: ids.RootOrg})
		}
	}
	return out
}

// mutation packs changes of one org.
func mutation(org ids.Org, principal string, changes ...*buspb.FlowChange) (*buspb.Mutation, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(&buspb.FlowsBody{Changes: changes})
	if err != nil {
		return nil, fmt.Errorf("serialise flow changes: %w: %w", ErrInvalid, err)
	}
	return &buspb.Mutation{Kind: Kind, Org: org.String(), Body: body, Principal: principal}, nil
}
