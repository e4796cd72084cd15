package filestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"raptorpack/ids"
)

// An incarnation has lives 0, 1, 2, ... What became of it when a life's lease had
// lapsed is decided once, by whoever first links nodes/<node>/<n>.end-<life>: others
// bury it for good, or it says itself that it goes on in the next life. DESIGN.md
// has the argument.
const (
	endBuried  = "buried"
	endRevived = "revived"

	endMark       = ".end-"
	maxEndingSize = 4096
)

// ending is the content of such a file. It is whole and synced before it is linked,
// and never changes.
type ending struct {
	Incarnation string    `json:"incarnation"`
	Life        uint64    `json:"life"` // the one that ended
	State       string    `json:"state"`
	Run         string    `json:"run,omitempty"` // revived: as in the holder's heartbeat
	By          string    `json:"by"`            // host and pid of who decided, for people
	Time        time.Time `json:"time"`          // by that host's clock, for people
}

func (p process) String() string { return fmt.Sprintf("%s pid %d", plain(p.host, 64), p.pid) }

func endPath(node ids.Node, n, life uint64) string {
	return claimPath(node, n) + endMark + strconv.FormatUint(life, 10)
}

// parseEndName reads <n>.end-<life>.
func parseEndName(name string) (n, life uint64, ok bool) {
	before, after, ok := strings.Cut(name, endMark)
	if !ok {
		return 0, 0, false
	}
	n = numbered(before, "", "")
	life, err := strconv.ParseUint(after, 10, 64)
	return n, life, n > 0 && err == nil && strconv.FormatUint(life, 10) == after
}

// publishEnding decides what becomes of an incarnation after a life, unless that is
// decided already, and returns what stands. ErrBadRecord: somebody decided, and it
// cannot be read what.
func (s *Store) publishEnding(ctx context.Context, node ids.Node, n uint64, e ending) (ending, error) {
	e.Incarnation, e.By, e.Time = incarnationName(node, n), s.self.String(), time.Now().UTC()
	data, err := json.Marshal(e)
	if err != nil {
		return ending{}, fmt.Errorf("end life %d of %s: %w", e.Life, e.Incarnation, err)
	}
	err = s.PublishFile(ctx, endPath(node, n, e.Life), append(data, '\n'))
	if errors.Is(err, ErrExists) {
		return s.readEnding(ctx, node, n, e.Life)
	}
	if err != nil {
		return ending{}, err
	}
	s.metrics.leases.WithLabelValues("incarnation", e.State).Inc()
	return e, nil
}

// readEnding reads an ending that is known to be there.
func (s *Store) readEnding(ctx context.Context, node ids.Node, n, life uint64) (ending, error) {
	name := endPath(node, n, life)
	data, err := s.ReadFile(ctx, name, maxEndingSize)
	if errors.Is(err, ErrTooLarge) {
		err = fmt.Errorf("%w: %w", ErrBadRecord, err)
	}
	if err != nil {
		return ending{}, err
	}
	e, err := parseEnding(data)
	if err == nil && (e.Incarnation != incarnationName(node, n) || e.Life != life) {
		err = fmt.Errorf("it names life %d of %.80q: %w", e.Life, e.Incarnation, ErrBadRecord)
	}
	if err != nil {
		return ending{}, fmt.Errorf("read %s: %w", name, err)
	}
	return e, nil
}

func parseEnding(data []byte) (ending, error) {
	var e ending
	if err := json.Unmarshal(data, &e); err != nil {
		return ending{}, fmt.Errorf("%w: %w", ErrBadRecord, err)
	}
	if e.State != endBuried && e.State != endRevived {
		return ending{}, fmt.Errorf("state %.20q: %w", e.State, ErrBadRecord)
	}
	return e, nil
}

// fate says which life of incarnation n a listing shows to have begun, and whether
// somebody has buried it.
//
// An ending that cannot be read counts as the holder's, who takes it for a burial:
// so nobody goes on by it, and nobody is taken for dead by it before the next life
// could have lapsed too.
func (o *observer) fate(ctx context.Context, node ids.Node, n uint64, listed *listing) (life uint64, buried bool, err error) {
	last, any := listed.ends[n]
	if !any {
		return 0, false, nil
	}
	name := endPath(node, n, last)
	state, known := o.endings[name]
	if !known {
		e, err := o.store.readEnding(ctx, node, n, last)
		if err != nil && !errors.Is(err, ErrBadRecord) {
			return 0, false, err
		}
		if state = e.State; err != nil {
			o.store.log.ErrorContext(ctx, "ending of an incarnation is damaged", "path", name, "err", err)
			state = endRevived
		}
		o.endings[name] = state
	}
	if state == endBuried {
		return last, true, nil
	}
	return last + 1, false, nil
}

// bury makes it final that an incarnation's lapsed life was its last; false: its
// holder was quicker and goes on.
func (o *observer) bury(ctx context.Context, node ids.Node, n, life uint64) (bool, error) {
	name := incarnationName(node, n)
	stands, err := o.store.publishEnding(ctx, node, n, ending{Life: life, State: endBuried})
	if err != nil && !errors.Is(err, ErrBadRecord) {
		return false, fmt.Errorf("bury %s: %w", name, err)
	}
	if stands.State != endBuried {
		o.outlived(claimPath(node, n), life)
		return false, nil
	}
	o.store.log.WarnContext(ctx, "incarnation is buried", "incarnation", name, "life", life, "by", stands.By)
	return true, nil
}
