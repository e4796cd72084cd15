package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"raptorpack/ids"
	"raptorpack/internal/retry"
	"raptorpack/internal/seeded"
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
	dir   string
	name  string
	n     uint64
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
// that one was released or sealed, or its process is gone from this machine,
// there is no wait; otherwise it watches for TTL + margin.
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
	dir := path.Join(nodesDir, o.Node.String())
	if err := s.Urgent().MkdirAll(ctx, dir); err != nil {
		return nil, fmt.Errorf("claim incarnation of %s: %w", o.Node, err)
	}
	watch := s.observer(o.TTL, o.Margin)
	for {
		last, err := watch.awaitEnd(ctx, o.Node, dir)
		if err != nil {
			return nil, fmt.Errorf("claim incarnation of %s: %w", o.Node, err)
		}
		n := last + 1
		c, err := s.take(ctx, "incarnation", path.Join(dir, strconv.FormatUint(n, 10)), o.Node.String(), o.TTL)
		if errors.Is(err, ErrExists) {
			continue // somebody starts the same node at this moment: watch that one
		}
		if err != nil {
			return nil, fmt.Errorf("claim incarnation of %s: %w", o.Node, err)
		}
		name := o.Node.String() + "-" + strconv.FormatUint(n, 10)
		s.tidy(ctx, dir)
		return &Incarnation{claim: c, dir: dir, name: name, n: n}, nil
	}
}

// awaitEnd returns the number of a node's last incarnation, 0 for none, once
// that one is known to be over.
func (o *observer) awaitEnd(ctx context.Context, node ids.Node, dir string) (uint64, error) {
	for {
		names, err := o.store.ReadDir(ctx, dir)
		if err != nil {
			return 0, err
		}
		last := highest(names, "", "")
		if last == 0 || slices.Contains(names, sealName(last)) {
			return last, nil
		}
		beat, verdict, err := o.look(ctx, path.Join(dir, strconv.FormatUint(last, 10)))
		switch {
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case err != nil:
			return 0, err
		case verdict.dead():
			return last, nil
		case verdict == moving && beat.Run != "": // not when torn by a renewal: look again
			return 0, &NodeRunningError{Node: node.String(), Host: beat.Host, PID: beat.PID, Since: beat.Started}
		}
		if !retry.Sleep(ctx, pollEvery(o.ttl)) {
			return 0, context.Cause(ctx)
		}
	}
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
func (i *Incarnation) Name() string { return i.name }

// Valid reports whether the lease lasts at this moment: what was synced before
// may be acknowledged now. Once false, for ever.
func (i *Incarnation) Valid() bool { return i.claim.valid() || seeded.Out("incarnation") }

// Trouble says why the heartbeat has not been renewed for more than half of the
// lease: what the filestore answered, or that it does not answer. nil while all
// is well. It is for health checks: Valid alone decides what may be acknowledged.
func (i *Incarnation) Trouble() error { return i.claim.trouble() }

// Run renews the lease until ctx ends (nil), it is lost (ErrLeaseLost) or
// others have sealed this incarnation or begun its successor (ErrSealed). In
// both cases the process must exit.
func (i *Incarnation) Run(ctx context.Context) error { return i.claim.keep(ctx, i.superseded) }

func (i *Incarnation) superseded(ctx context.Context) error {
	names, err := i.claim.store.ReadDir(ctx, i.dir)
	if err != nil {
		return err
	}
	if slices.Contains(names, sealName(i.n)) {
		return ErrSealed
	}
	if next := highest(names, "", ""); next > i.n {
		return fmt.Errorf("incarnation %d has begun: %w", next, ErrSealed)
	}
	return nil
}

// Await returns once the filestore takes a new file, after Run has told that the
// lease was lost, or with ctx. One call at a time asks, however long it hangs. The
// heartbeat itself is left alone: others may be waiting for it to stand still.
func (i *Incarnation) Await(ctx context.Context) {
	store := i.claim.store
	for {
		temp, err := store.writeTemp(ctx, i.dir, []byte("does it answer?\n"))
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

// IncarnationInfo is what is known of one incarnation.
type IncarnationInfo struct {
	Node      ids.Node
	N         uint64
	Name      string    // "<node>-<n>"
	Heartbeat Heartbeat // empty if the record is damaged
	Released  bool      // ended cleanly: its files are complete
	Sealed    bool      // the seal says how much of its files is valid
	Dead      bool      // surely over; only a Watcher knows, except for Released
}

// Incarnations lists every incarnation that ever was, by node and number.
func (s *Store) Incarnations(ctx context.Context) ([]IncarnationInfo, error) {
	return s.Watcher(0, 0).Look(ctx)
}

// Watcher judges which foreign incarnations are over. For one goroutine.
type Watcher struct {
	observer *observer
	final    map[string]Heartbeat // of released ones: they change no more
}

// Watcher returns one that judges by a heartbeat's standing still for ttl (or
// what the record says, if that is longer) plus margin; zero: 30 s and 1 s.
func (s *Store) Watcher(ttl, margin time.Duration) *Watcher {
	if ttl <= 0 {
		ttl = 30 * time.Second
	}
	if margin <= 0 {
		margin = time.Second
	}
	return &Watcher{observer: s.observer(ttl, margin), final: map[string]Heartbeat{}}
}

// Look lists all incarnations afresh and judges them by what it saw at earlier
// looks. It has to be called every few seconds; seldom looks delay a verdict
// but never make it wrong.
func (w *Watcher) Look(ctx context.Context) ([]IncarnationInfo, error) {
	nodes, err := w.observer.store.ReadDir(ctx, nodesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var all []IncarnationInfo
	for _, name := range nodes {
		node, err := ids.ParseNode(name)
		if err != nil {
			continue // not ours
		}
		if all, err = w.lookNode(ctx, node, all); err != nil {
			return nil, fmt.Errorf("list incarnations of %s: %w", node, err)
		}
	}
	return all, nil
}

func (w *Watcher) lookNode(ctx context.Context, node ids.Node, all []IncarnationInfo) ([]IncarnationInfo, error) {
	dir := path.Join(nodesDir, node.String())
	names, err := w.observer.store.ReadDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	there := make(map[string]bool, len(names))
	for _, name := range names {
		there[name] = true
	}
	for _, n := range numbers(names, "", "") {
		info := IncarnationInfo{Node: node, N: n, Name: node.String() + "-" + strconv.FormatUint(n, 10)}
		info.Sealed = there[sealName(n)]
		if err := w.judge(ctx, path.Join(dir, strconv.FormatUint(n, 10)), &info); err != nil {
			return nil, err
		}
		all = append(all, info)
	}
	return all, nil
}

func (w *Watcher) judge(ctx context.Context, path string, info *IncarnationInfo) error {
	if beat, ok := w.final[path]; ok {
		info.Heartbeat, info.Released, info.Dead = beat, beat.Released, true
		return nil
	}
	beat, verdict, err := w.observer.look(ctx, path)
	if err != nil {
		return err
	}
	info.Heartbeat, info.Released, info.Dead = beat, verdict == released, verdict.dead() || info.Sealed
	if info.Released || info.Sealed {
		w.final[path] = beat
	}
	return nil
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
