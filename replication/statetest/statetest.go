// Package statetest holds implementations of replication.State to their
// promises: same entries in any grouping, with a snapshot and restore in
// between, give the same bytes and the same refusals.
//
// It never looks into a state. Main walk: Run, Checks.
package statetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/buspb"
	"raptorpack/replication"
)

// mostCuts bounds the places where a snapshot is taken in between.
const mostCuts = 50

// Check is one promise; its error tells how a state breaks it.
type Check struct {
	Name string
	Run  func() error
}

// Run holds the states that fresh returns to all promises. entries should
// contain refusals and every kind of mutation the state knows; Index, Epoch and
// Time are filled in where they are zero. Each call of fresh returns a state
// without entries.
func Run(t *testing.T, fresh func() replication.State, entries []*buspb.Entry) {
	t.Helper()
	for _, c := range Checks(fresh, entries) {
		t.Run(c.Name, func(t *testing.T) {
			if err := c.Run(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Checks returns the promises that Run checks, for callers without a test.
func Checks(fresh func() replication.State, entries []*buspb.Entry) []Check {
	s := &suite{fresh: fresh, entries: number(entries)}
	return []Check{
		{"GivesSameBytesForSameEntries", s.sameBytes},
		{"WritesJSONLines", s.jsonLines},
		{"GoesOnFromAnySnapshot", s.snapshots},
		{"RestoreReplacesEverything", s.replaces},
		{"RestoreOfNothingIsTheBeginning", s.nothing},
		{"RestoreTellsReadErrors", s.readErrors},
		{"RefusalChangesNothing", s.refusals},
		{"ApplyLeavesTheEntryAlone", s.leavesEntry},
		{"ViewStandsStillWhileApplyGoesOn", s.views},
	}
}

type suite struct {
	fresh   func() replication.State
	entries []*buspb.Entry
}

// number gives entries the places that they lack.
func number(entries []*buspb.Entry) []*buspb.Entry {
	numbered := make([]*buspb.Entry, len(entries))
	for i, e := range entries {
		e = proto.CloneOf(e)
		if e.Index == 0 {
			e.Index = uint64(i) + 1
		}
		if e.Epoch == 0 {
			e.Epoch = 1
		}
		if e.Time == 0 {
			e.Time = 1_700_000_000_000_000 + int64(i)*1_000_000
		}
		numbered[i] = e
	}
	return numbered
}

// apply applies entries and returns the refusals, "" for none.
func apply(s replication.State, entries []*buspb.Entry) []string {
	said := make([]string, len(entries))
	for i, e := range entries {
		if err := s.Apply(proto.CloneOf(e)); err != nil {
			said[i] = "refused: " + err.Error()
		}
	}
	return said
}

func write(view io.WriterTo) ([]byte, error) {
	var b bytes.Buffer
	n, err := view.WriteTo(&b)
	if err != nil {
		return nil, fmt.Errorf("write view: %w", err)
	}
	if n != int64(b.Len()) {
		return nil, fmt.Errorf("WriteTo says %d bytes and wrote %d", n, b.Len())
	}
	return b.Bytes(), nil
}

// cuts are the numbers of entries after which to look closer.
func (s *suite) cuts() []int {
	step := max(1, len(s.entries)/mostCuts)
	var at []int
	for i := 0; i < len(s.entries); i += step {
		at = append(at, i)
	}
	return append(at, len(s.entries))
}

// after returns a state with the first n entries, its bytes and refusals.
func (s *suite) after(n int) (replication.State, []byte, []string, error) {
	state := s.fresh()
	said := apply(state, s.entries[:n])
	b, err := write(state.View())
	return state, b, said, err
}

func differ(what string, at int, got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	return fmt.Errorf("%s, after entry %d:\n got %.2000q\nwant %.2000q", what, at, got, want)
}

func differSaid(what string, first int, got, want []string) error {
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("%s, entry %d: got %q, want %q", what, first+i+1, got[i], want[i])
		}
	}
	return nil
}

func (s *suite) sameBytes() error {
	_, want, wantSaid, err := s.after(len(s.entries))
	if err != nil {
		return err
	}
	for range 5 { // chance, such as the order of a map, shows itself in a few tries
		_, got, said, err := s.after(len(s.entries))
		if err == nil {
			err = differ("second run", len(s.entries), got, want)
		}
		if err == nil {
			err = differSaid("second run", 0, said, wantSaid)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) jsonLines() error {
	_, b, _, err := s.after(len(s.entries))
	if err != nil {
		return err
	}
	if len(b) > 0 && b[len(b)-1] != '\n' {
		return errors.New("the last line has no end")
	}
	for i, line := range bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) {
		if len(b) > 0 && !json.Valid(line) {
			return fmt.Errorf("line %d is not JSON: %.200q", i+1, line)
		}
	}
	return nil
}

func (s *suite) snapshots() error {
	_, want, wantSaid, err := s.after(len(s.entries))
	if err != nil {
		return err
	}
	for _, cut := range s.cuts() {
		_, b, _, err := s.after(cut)
		if err != nil {
			return err
		}
		state := s.fresh()
		if err := state.Restore(bytes.NewReader(b)); err != nil {
			return fmt.Errorf("restore after entry %d: %w", cut, err)
		}
		again, err := write(state.View())
		if err == nil {
			err = differ("view of what was restored", cut, again, b)
		}
		if err != nil {
			return err
		}
		said := apply(state, s.entries[cut:])
		got, err := write(state.View())
		if err == nil {
			err = differ(fmt.Sprintf("with a snapshot after entry %d", cut), len(s.entries), got, want)
		}
		if err == nil {
			err = differSaid(fmt.Sprintf("with a snapshot after entry %d", cut), cut, said, wantSaid[cut:])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) replaces() error {
	for _, cut := range s.cuts() {
		_, want, _, err := s.after(cut)
		if err != nil {
			return err
		}
		full, _, _, err := s.after(len(s.entries))
		if err != nil {
			return err
		}
		if err := full.Restore(bytes.NewReader(want)); err != nil {
			return fmt.Errorf("restore over a full state: %w", err)
		}
		got, err := write(full.View())
		if err == nil {
			err = differ("restored over a full state", cut, got, want)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) nothing() error {
	_, want, _, err := s.after(0)
	if err != nil {
		return err
	}
	full, _, _, err := s.after(len(s.entries))
	if err != nil {
		return err
	}
	if err := full.Restore(bytes.NewReader(nil)); err != nil {
		return fmt.Errorf("restore of nothing: %w", err)
	}
	got, err := write(full.View())
	if err != nil {
		return err
	}
	return differ("restored from nothing", 0, got, want)
}

var errRead = errors.New("statetest: the disk is gone")

func (s *suite) readErrors() error {
	_, b, _, err := s.after(len(s.entries))
	if err != nil {
		return err
	}
	for _, n := range []int{0, len(b) / 2, len(b)} {
		r := io.MultiReader(bytes.NewReader(b[:n]), failing{})
		if err := s.fresh().Restore(r); !errors.Is(err, errRead) {
			return fmt.Errorf("restore from a reader that fails after %d bytes: got %v, want the reader's error", n, err)
		}
	}
	return nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errRead }

func (s *suite) refusals() error {
	state := s.fresh()
	for i, e := range s.entries {
		before, err := write(state.View())
		if err != nil {
			return err
		}
		if state.Apply(proto.CloneOf(e)) == nil {
			continue
		}
		after, err := write(state.View())
		if err == nil {
			err = differ("a refusal changed the state", i+1, after, before)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) leavesEntry() error {
	state := s.fresh()
	for _, e := range s.entries {
		given := proto.CloneOf(e)
		_ = state.Apply(given) // refusals are checked elsewhere
		if !proto.Equal(given, e) {
			return fmt.Errorf("apply changed entry %d", e.Index)
		}
	}
	return nil
}

// views writes a view while the rest is applied; run it with -race.
func (s *suite) views() error {
	for _, cut := range s.cuts() {
		state, want, _, err := s.after(cut)
		if err != nil {
			return err
		}
		view := state.View()
		var during []byte
		var duringErr error
		var wg sync.WaitGroup
		wg.Go(func() { during, duringErr = write(view) })
		apply(state, s.entries[cut:])
		wg.Wait()
		later, err := write(view)
		if err = errors.Join(duringErr, err); err == nil {
			err = errors.Join(differ("view written meanwhile", cut, during, want), differ("view written later", cut, later, want))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
