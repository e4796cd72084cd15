package filestore

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"raptorpack/ids"
	"raptorpack/internal/retry"
)

const nodesDir = "nodes"

// IncarnationOptions sets up a claim of a node's name.
type IncarnationOptions struct {
	Node   ids.Node      // required
	TTL    time.Duration // how long one renewal lasts; 0: 30 s
	Margin time.Duration // what a watcher waits beyond it; 0: 1 s
}

// Incarnation is one run of one node's process: the owner of files whose paths
// carry its name. Safe for concurrent use.
type Incarnation struct {
	claim *claim
	node  ids.Node
	n     uint64

	revival revival // for one goroutine, as Run and Revive are
}

// NodeRunningError says who holds the node's name. It is an ErrNodeRunning.
type NodeRunningError struct {
	Node  string
	Host  string
	PID   int
	Since time.Time // by that host's clock
}

// Error implements error.
func (e *NodeRunningError) Error() string {
	return fmt.Sprintf("%v: node %s runs on host %s as pid %d since %s", ErrNodeRunning, e.Node, e.Host, e.PID, e.Since.Format(time.RFC3339))
}

// Unwrap lets errors.Is find ErrNodeRunning.
func (e *NodeRunningError) Unwrap() error { return ErrNodeRunning }

// ClaimIncarnation takes the next incarnation of a node, nodes/<node>/<n>.
// While the last one's heartbeat moves it is refused with NodeRunningError. If
// that one was released, buried or sealed, or its process is gone from this
// machine, there is no wait; otherwise it watches for TTL + margin and buries it.
func (s *Store) ClaimIncarnation(ctx context.Context, o IncarnationOptions) (*Incarnation, error) {
	if o.Node.IsZero() {
		return nil, fmt.Errorf("claim incarnation: %w", ids.ErrInvalid)
	}
	if o.TTL <= 0 {
		o.TTL = 30 * time.Second
	}
	if o.Margin <= 0 {
		o.Margin = time.Second
	}
	if err := s.Urgent().MkdirAll(ctx, nodeDir(o.Node)); err != nil {
		return nil, fmt.Errorf("claim incarnation of %s: %w", o.Node, err)
	}
	watch := s.observer(o.TTL, o.Margin)
	for {
		last, err := watch.awaitEnd(ctx, o.Node)
		if err != nil {
			return nil, fmt.Errorf("claim incarnation of %s: %w", o.Node, err)
		}
		n := last + 1
		c, err := s.take(ctx, "incarnation", claimPath(o.Node, n), o.Node.String(), o.TTL)
		if errors.Is(err, ErrExists) {
			continue // somebody starts the same node at this moment: watch that one
		}
		if err != nil {
			return nil, fmt.Errorf("claim incarnation of %s: %w", o.Node, err)
		}
		s.tidy(ctx, nodeDir(o.Node))
		return &Incarnation{claim: c, node: o.Node, n: n}, nil
	}
}

// awaitEnd returns the number of a node's last incarnation, 0 for none, once
// that one is over for good.
func (o *observer) awaitEnd(ctx context.Context, node ids.Node) (uint64, error) {
	for {
		listed, err := o.store.listNode(ctx, node)
		if err != nil {
			return 0, err
		}
		over, err := o.layToRest(ctx, node, &listed)
		switch {
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case err != nil:
			return 0, err
		case over:
			return listed.last(), nil
		}
		if !retry.Sleep(ctx, pollEvery(o.ttl)) {
			return 0, context.Cause(ctx)
		}
	}
}

// layToRest buries a node's last incarnation if it has lapsed, and reports whether it
// is over for good. One that lives is NodeRunningError.
func (o *observer) layToRest(ctx context.Context, node ids.Node, listed *listing) (bool, error) {
	n := listed.last()
	if n == 0 || listed.seals[n] {
		return true, nil
	}
	seen, over, err := o.judge(ctx, node, n, listed)
	switch {
	case err != nil || over:
		return over, err
	case seen.verdict == lapsed:
		return o.bury(ctx, node, n, seen.life)
	case seen.verdict == moving:
		return false, &NodeRunningError{Node: node.String(), Host: seen.beat.Host, PID: seen.beat.PID, Since: seen.beat.Started}
	}
	return false, nil
}

// tidy removes what earlier incarnations of this node left unfinished; nobody
// else writes in the node's directory but whoever seals, for a moment.
func (s *Store) tidy(ctx context.Context, dir string) {
	entries, err := s.Urgent().list(ctx, dir)
	if err != nil {
		return // only untidy
	}
	for _, entry := range entries {
		info, err := entry.Info()
		old := err == nil && time.Since(info.ModTime()) > time.Hour
		if old && strings.HasPrefix(entry.Name(), tempPrefix) {
			s.Urgent().dropTemp(ctx, path.Join(dir, entry.Name()))
		}
	}
}

// Name returns "<node>-<n>", as it stands in paths.
func (i *Incarnation) Name() string { return incarnationName(i.node, i.n) }

// Life says how often this incarnation went on after its lease had lapsed.
func (i *Incarnation) Life() uint64 { return i.claim.currentLife() }

// Valid reports whether the lease lasts at this moment: what was synced before may
// be acknowledged now, whenever it was begun. Once false it stays so, unless Revive
// begins another life: then nobody has buried or sealed this incarnation meanwhile.
func (i *Incarnation) Valid() bool { return i.claim.valid() }

// Advertise says where other nodes reach this one's gossip, as host:port, from the
// next renewal on, which follows at once. What is not printable becomes "_", and
// 100 bytes are kept at most. Empty takes it back.
func (i *Incarnation) Advertise(addr string) { i.claim.advertise(plain(addr, maxGossip)) }

// Trouble says why the heartbeat has not been renewed for more than half of the
// lease: what the filestore answered, or that it does not answer. nil while all
// is well. It is for health checks: Valid alone decides what may be acknowledged.
func (i *Incarnation) Trouble() error { return i.claim.trouble() }

// Run renews the lease until ctx ends (nil), it is lost (ErrLeaseLost) or others
// have buried or sealed this incarnation or begun its successor (ErrSealed). After
// ErrSealed the process must exit; after ErrLeaseLost Revive may go on.
func (i *Incarnation) Run(ctx context.Context) error { return i.claim.keep(ctx, i.superseded) }

// superseded looks whether others took this incarnation for dead. Nobody does while
// the lease lasts by a clock that runs; that of a paused virtual machine may not.
func (i *Incarnation) superseded(ctx context.Context) error {
	listed, err := i.claim.store.listNode(ctx, i.node)
	if err != nil {
		return err
	}
	last, any := listed.ends[i.n]
	life := i.Life()
	switch next := listed.last(); {
	case listed.seals[i.n]:
		return ErrSealed
	case next > i.n:
		return fmt.Errorf("incarnation %d has begun: %w", next, ErrSealed)
	case !any || last < life:
		return nil
	case last > life:
		return fmt.Errorf("life %d has ended, this is %d: %w", last, life, ErrSealed)
	}
	e, err := i.claim.store.readEnding(ctx, i.node, i.n, life)
	if err != nil && !errors.Is(err, ErrBadRecord) {
		return err
	}
	return i.ours(e, err)
}

// Await returns once the filestore takes a new file, after Run has told that the
// lease was lost, or with ctx. One call at a time asks, however long it hangs. The
// heartbeat itself is left alone: others may be waiting for it to stand still.
func (i *Incarnation) Await(ctx context.Context) {
	store := i.claim.store
	for {
		temp, err := store.writeTemp(ctx, nodeDir(i.node), []byte("does it answer?\n"))
		if err == nil {
			temp.handle.discard(ctx)
			store.dropTemp(ctx, temp.path)
			return
		}
		if !retry.Sleep(ctx, i.claim.ttl/16) {
			return
		}
	}
}

// Release gives the name up cleanly, after Run has returned and everything
// that relied on the lease has stopped: the next start need not wait, and nobody
// seals files of which all bytes count. An incarnation that lost its lease, or of
// which a file call is still under way, is left to be sealed.
func (i *Incarnation) Release(ctx context.Context) error {
	if !i.claim.valid() || i.claim.store.lanes[0].busy() {
		i.claim.end()
		return nil
	}
	return i.claim.release(ctx)
}

func nodeDir(node ids.Node) string { return path.Join(nodesDir, node.String()) }

func claimPath(node ids.Node, n uint64) string {
	return path.Join(nodeDir(node), strconv.FormatUint(n, 10))
}

func incarnationName(node ids.Node, n uint64) string {
	return node.String() + "-" + strconv.FormatUint(n, 10)
}

// SplitIncarnation reads "<node>-<n>".
func SplitIncarnation(name string) (ids.Node, uint64, error) {
	at := strings.LastIndexByte(name, '-')
	if at < 0 {
		return ids.Node{}, 0, fmt.Errorf("incarnation name %.80q: %w", name, ids.ErrInvalid)
	}
	node, err := ids.ParseNode(name[:at])
	n := numbered(name[at+1:], "", "")
	if err != nil || n == 0 {
		return ids.Node{}, 0, fmt.Errorf("incarnation name %.80q: %w", name, ids.ErrInvalid)
	}
	return node, n, nil
}

// numbers picks the numbers out of listed names, ascending.
func numbers(names []string, prefix, suffix string) []uint64 {
	var found []uint64
	for _, name := range names {
		if n := numbered(name, prefix, suffix); n > 0 {
			found = append(found, n)
		}
	}
	slices.Sort(found)
	return found
}

func highest(names []string, prefix, suffix string) uint64 {
	found := numbers(names, prefix, suffix)
	if len(found) == 0 {
		return 0
	}
	return found[len(found)-1]
}
