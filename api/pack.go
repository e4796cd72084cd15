package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/users"
)

// ErrUnknownNode is what Options.Order answers when no node of that name ever ran.
// Trying again does not help.
var ErrUnknownNode = errors.New("no node of this name")

// ErrUnheard is what Options.Order answers when the node is known and does not
// speak: it has ended, or nobody reaches it from here. Trying again may help.
var ErrUnheard = errors.New("the node is not heard")

// errSuccessor answers an order for a run of a node that is over.
var errSuccessor = errors.New("the node does not run as this incarnation any more")

// NodeStatus is how one node of the pack stands, by its own word.
type NodeStatus struct {
	Node        string     `json:"node"`
	Incarnation string     `json:"incarnation" doc:"this run of the node; the owner of what it writes"`
	Version     string     `json:"version"`
	Role        string     `json:"role" doc:"master, candidate or minion"`
	Ready       string     `json:"ready" doc:"empty when the node can serve, else why not"`
	Epoch       uint64     `json:"epoch"`
	Index       uint64     `json:"index" doc:"the last entry of the ledger applied there"`
	Lag         uint64     `json:"lag" doc:"entries behind the highest index in this answer"`
	AgeMs       int64      `json:"ageMs" doc:"how much older than the ledger its state may be, in milliseconds; -1: not known"`
	Connected   int64      `json:"connected" doc:"clients that wait there"`
	Clients     int64      `json:"clients" doc:"clients that it knows"`
	Outbox      int64      `json:"outbox" doc:"durable facts that no master has taken yet"`
	StartedAt   *time.Time `json:"startedAt,omitempty"`
	CPU         float64    `json:"cpu" doc:"share of a core used lately"`
	MemoryBytes int64      `json:"memoryBytes" doc:"resident"`
	Frontend    string     `json:"frontend" doc:"the address that clients reach"`
	Operators   string     `json:"operators" doc:"the address of the JSON door"`
	Programs    string     `json:"programs" doc:"the address of the gRPC door"`
	Draining    bool       `json:"draining" doc:"it hands its clients over and stops"`
	Self        bool       `json:"self" doc:"the node that answers"`
}

// PackOf makes what Options.Pack returns of what nodes tell each other; the first
// is the node that is asked. Of several that say that they lead, only the one of
// the highest epoch does.
func PackOf(all []*buspb.NodeStatus) []NodeStatus {
	var highest, leads uint64
	for _, n := range all {
		highest, leads = max(highest, n.GetIndex()), max(leads, n.GetLeads())
	}
	out := make([]NodeStatus, len(all))
	for i, n := range all {
		out[i] = NodeStatus{
			Node: n.GetNode(), Incarnation: n.GetIncarnation(), Version: n.GetVersion(), Role: "minion", Ready: n.GetUnready(),
			Epoch: n.GetEpoch(), Index: n.GetIndex(), Lag: highest - n.GetIndex(), AgeMs: -1, Connected: n.GetConnected(),
			Clients: n.GetClients(), Outbox: n.GetOutbox(), CPU: n.GetCpu(), MemoryBytes: n.GetMemory(), Frontend: n.GetFrontend(),
			Operators: n.GetOperators(), Programs: n.GetPrograms(), Draining: n.GetDraining(), Self: i == 0,
		}
		if n.GetCandidate() {
			out[i].Role = "candidate"
		}
		if n.GetLeads() != 0 && n.GetLeads() == leads {
			out[i].Role = "master"
		}
		if age := n.GetAge(); age >= 0 {
			out[i].AgeMs = (time.Duration(age) * time.Microsecond).Milliseconds()
		}
		if at := n.GetStarted(); at > 0 {
			started := time.UnixMicro(at).UTC()
			out[i].StartedAt = &started
		}
	}
	return out
}

func (s *Server) packRoutes() {
	get(s, "/pack", "pack", "How every node stands that this one hears, this one first", s.pack)
	register(s, http.MethodPost, "/pack/nodes/{node}/drain", "drainNode", "Have a node hand its clients over and stop", s.drainNode)
}

func (s *Server) pack(ctx context.Context, _ *struct{}) (*body[List[NodeStatus]], error) {
	if _, err := s.may(ctx); err != nil {
		return nil, err
	}
	nodes := s.o.Pack()
	return &body[List[NodeStatus]]{List[NodeStatus]{Items: nodes, Total: int64(len(nodes)), AsOf: s.asOf()}}, nil
}

// Drained is the answer of a node that was told to drain.
type Drained struct {
	Node        string `json:"node"`
	Incarnation string `json:"incarnation,omitempty" doc:"the run that ends, if this node knew of it"`
}

type drainIn struct {
	Writing
	Node        string `path:"node" doc:"name of the node"`
	Incarnation string `query:"incarnation" doc:"drain only this run of the node, so that a request that is repeated does not end the next one: 409 when it is over"`
}

// drainNode passes an order on. It is no entry of the ledger: a node drains once,
// however often it is told to, and keys are remembered by the node that was asked.
func (s *Server) drainNode(ctx context.Context, in *drainIn) (*body[Drained], error) {
	who, err := s.may(ctx, users.ServerAdmin)
	if err != nil {
		return nil, err
	}
	if _, err := ids.ParseNode(in.Node); err != nil {
		return nil, err
	}
	key := ""
	if in.Key != "" {
		key = who.Name + "\n" + requestID(ctx, in.Writing)
	}
	if before, known := s.orders.earlier(key); known {
		return &body[Drained]{before}, nil
	}
	out := Drained{in.Node, s.incarnationOf(in.Node)}
	if in.Incarnation != "" && out.Incarnation != "" && in.Incarnation != out.Incarnation {
		return nil, fmt.Errorf("%s, but as %s: %w", in.Incarnation, out.Incarnation, errSuccessor)
	}
	if err := s.order(ctx, who, "drain", out); err != nil {
		return nil, err
	}
	s.orders.keep(key, out)
	return &body[Drained]{out}, nil
}

// incarnationOf is the newest run of a node that this one hears, empty if none.
func (s *Server) incarnationOf(node string) string {
	var newest NodeStatus
	for _, n := range s.o.Pack() {
		if n.Node == node && (newest.Node == "" || n.startedAfter(newest)) {
			newest = n
		}
	}
	return newest.Incarnation
}

func (n NodeStatus) startedAfter(other NodeStatus) bool {
	return n.StartedAt != nil && (other.StartedAt == nil || n.StartedAt.After(*other.StartedAt))
}

// order passes an order on and leaves its audit line; of what surely did not reach
// the node there is none. It goes on when the caller leaves.
func (s *Server) order(ctx context.Context, who *Principal, what string, to Drained) error {
	lasting, end := s.lasting(ctx)
	defer end()
	err := s.o.Order(lasting, to.Node, what, who.Name)
	if errors.Is(err, ErrUnknownNode) || errors.Is(err, ErrUnheard) {
		return fmt.Errorf("%s %s: %w", what, to.Node, err)
	}
	details := map[string]string{"incarnation": cmp.Or(to.Incarnation, "unknown")}
	if err != nil {
		details["outcome"] = "unsure"
		err = fmt.Errorf("%s %s: %w", what, to.Node, err)
	}
	s.Audit(ctx, who, "node."+what, to.Node, details)
	return err
}

// maxOrders is how many keys of orders are remembered; beyond it the oldest go.
const maxOrders = 1000

// orders remembers the answers to orders by the keys that they came with.
type orders struct {
	mu      sync.Mutex
	answers map[string]Drained
	keys    []string // in the order in which they came
}

// earlier returns the answer to an order that came with this key before.
func (o *orders) earlier(key string) (answer Drained, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	answer, known = o.answers[key]
	return answer, known
}

// keep remembers an answer; one without a key is not asked for again.
func (o *orders) keep(key string, answer Drained) {
	if key == "" {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.answers == nil {
		o.answers = map[string]Drained{}
	}
	if _, known := o.answers[key]; !known {
		o.keys = append(o.keys, key)
	}
	o.answers[key] = answer
	if len(o.keys) > maxOrders {
		delete(o.answers, o.keys[0])
		o.keys = o.keys[1:]
	}
}
