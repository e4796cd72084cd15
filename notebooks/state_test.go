package notebooks_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"raptorpack/ids"
	"raptorpack/notebooks"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
	"raptorpack/replication/statetest"
)

func keyOf(t testing.TB, text string) notebooks.Key {
	t.Helper()
	id, err := ids.ParseNotebook(text)
	if err != nil {
		t.Fatal(err)
	}
	return notebooks.Key{Notebook: id}
}

// story is a room and the entries that made it.
type story struct {
	t       testing.TB
	room    *notebooks.Room
	entries []*buspb.Entry
	at      time.Time
	folders int
}

func newStory(t testing.TB) *story {
	return &story{t: t, room: notebooks.New(notebooks.Options{}), at: time.Unix(1_700_000_000, 0)}
}

// do applies what was planned; a refusal is part of the story.
func (s *story) do(m *buspb.Mutation, err error) error {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	m.Principal = "ada"
	s.at = s.at.Add(time.Second)
	e := &buspb.Entry{Index: uint64(len(s.entries)) + 1, Epoch: 1, Time: s.at.UnixMicro(), Mutation: m}
	s.entries = append(s.entries, e)
	return s.room.Apply(e)
}

// stored are rows in a folder of their own, begun now.
func (s *story) stored(rows int64) notebooks.Stored {
	s.folders++
	out := notebooks.Stored{Folder: fmt.Sprintf("~%d-%032x", s.room.Begun(), s.folders), Rows: rows}
	if rows > 0 {
		out.First, out.Last = s.at, s.at.Add(time.Hour)
	}
	return out
}

func wish(key notebooks.Key, timeline, name string) notebooks.Wish {
	return notebooks.Wish{Key: key, Timeline: timeline, Name: name, Column: "Time", MessageColumn: "M"}
}

func (s *story) add(key notebooks.Key, timeline, name string) error {
	s.t.Helper()
	return s.do(s.room.PlanAdd(wish(key, timeline, name), s.stored(3)))
}

// says is what the room has, as names.
func says(r *notebooks.Room, key notebooks.Key) string {
	var out []string
	for _, t := range r.Timelines(key) {
		var names []string
		for _, c := range t.Children {
			names = append(names, c.Name)
		}
		out = append(out, t.Name+":"+strings.Join(names, ","))
	}
	return strings.Join(out, " ")
}

// tell is a story with every kind of mutation, and refusals.
func tell(t testing.TB) []*buspb.Entry {
	s := newStory(t)
	one, two, hunt := keyOf(t, "N.ONE"), keyOf(t, "N.F.A-C.0123456789abcdef"), keyOf(t, "N.H.B")
	late, err := s.room.PlanAdd(wish(one, "S", "late"), s.stored(1))
	_ = s.add(one, "S", "b")
	_ = s.add(one, "S", "a")
	_ = s.add(one, "S", "b")
	_ = s.add(one, "<T>", "ü")
	_ = s.add(two, "S", "x")
	_ = s.add(hunt, "S", "x")
	again, _ := s.room.PlanAdd(wish(hunt, "S", "y"), s.stored(0))
	_ = s.do(again, nil)
	_ = s.do(again, nil)
	_ = s.do(s.room.PlanRemove(one, "S", "a"))
	_ = s.do(s.room.PlanRemove(hunt, "S", ""))
	gone, _ := s.room.PlanRemove(one, "<T>", "")
	_ = s.do(gone, nil)
	_ = s.do(gone, nil) // refused
	_ = s.do(notebooks.PlanSwept(ids.RootOrg, s.room.Unused()[:2]))
	_ = s.do(s.room.PlanDelete(one))
	_ = s.do(late, err) // refused
	_ = s.do(s.room.PlanDelete(keyOf(t, "N.NOBODY")))
	_ = s.add(one, "S", "new")
	s.at = s.at.Add(49 * time.Hour)
	old, err := s.room.PlanAdd(wish(hunt, "S", "old"), notebooks.Stored{Folder: "~1-" + strings.Repeat("f", 32)})
	_ = s.add(two, "S", "z") // forgets the deletions
	_ = s.do(old, err)       // refused
	_ = s.do(&buspb.Mutation{Kind: notebooks.Kind, Body: []byte{0xff}}, nil)
	_ = s.do(&buspb.Mutation{Kind: notebooks.Kind, Org: "?"}, nil)
	_ = s.do(&buspb.Mutation{Kind: notebooks.Kind}, nil)
	return s.entries
}

func TestStateKeepsItsPromises(t *testing.T) {
	statetest.Run(t, func() replication.State { return notebooks.New(notebooks.Options{}) }, tell(t))
}

func TestChildrenAreReplacedAndDeleted(t *testing.T) {
	s := newStory(t)
	key := keyOf(t, "N.ONE")
	for _, name := range []string{"b", "a", "b"} {
		if err := s.add(key, "S", name); err != nil {
			t.Fatal(err)
		}
	}
	if got := says(s.room, key); got != "S:a,b" {
		t.Errorf("it has %s", got)
	}
	line, err := s.room.Timeline(key, "S")
	if err != nil || line.Children[0].By != "ada" || line.Children[0].Key != "Time" || line.Children[0].Rows != 3 {
		t.Errorf("%+v, %v", line, err)
	}
	if u := s.room.Unused(); len(u) != 1 || u[0].Folder == "" {
		t.Errorf("unused: %+v", u)
	}
	if err := s.do(s.room.PlanRemove(key, "S", "a")); err != nil || says(s.room, key) != "S:b" {
		t.Errorf("%v, it has %s", err, says(s.room, key))
	}
	if _, err := s.room.PlanRemove(key, "S", "a"); !errors.Is(err, notebooks.ErrNotFound) {
		t.Errorf("a second time: %v", err)
	}
	if err := s.do(s.room.PlanRemove(key, "S", "")); err != nil || says(s.room, key) != "" || len(s.room.Unused()) != 3 {
		t.Errorf("%v, it has %s, unused %v", err, says(s.room, key), s.room.Unused())
	}
	if err := s.do(notebooks.PlanSwept(ids.RootOrg, s.room.Unused())); err != nil || len(s.room.Unused()) != 0 {
		t.Errorf("%v, unused %v", err, s.room.Unused())
	}
}

// The same entry a second time is the same child: its rows are not given up.
func TestTheSameChildTwiceIsOne(t *testing.T) {
	s := newStory(t)
	told := 0
	s.room = notebooks.New(notebooks.Options{Added: func(notebooks.Added) { told++ }})
	m, err := s.room.PlanAdd(wish(keyOf(t, "N.ONE"), "S", "a"), s.stored(1))
	for range 2 {
		if err := s.do(m, err); err != nil {
			t.Fatal(err)
		}
	}
	if u := s.room.Unused(); len(u) != 0 || told != 1 {
		t.Errorf("unused %v, told %d times", u, told)
	}
}

// Rows that were begun before their notebook was deleted are never named: the sweep may
// have taken them.
func TestWhatWasBegunBeforeADeletionIsRefused(t *testing.T) {
	s := newStory(t)
	one, other := keyOf(t, "N.ONE"), keyOf(t, "N.OTHER")
	_ = s.add(one, "S", "a")
	before := s.stored(1)
	elsewhere := s.stored(1)
	if err := s.do(s.room.PlanDelete(one)); err != nil {
		t.Fatal(err)
	}
	if err := s.do(s.room.PlanAdd(wish(one, "S", "a"), before)); !errors.Is(err, notebooks.ErrDeleted) {
		t.Errorf("begun before: %v", err)
	}
	if err := s.do(s.room.PlanAdd(wish(other, "S", "a"), elsewhere)); err != nil {
		t.Errorf("of another notebook: %v", err)
	}
	if err := s.add(one, "S", "a"); err != nil {
		t.Errorf("begun after: %v", err)
	}
	s.at = s.at.Add(49 * time.Hour)
	_ = s.add(other, "S", "b")
	if err := s.do(s.room.PlanAdd(wish(one, "S", "a"), before)); !errors.Is(err, notebooks.ErrDeleted) {
		t.Errorf("when the deletion is forgotten: %v", err)
	}
}

func TestBoundsHold(t *testing.T) {
	s := newStory(t)
	key := keyOf(t, "N.ONE")
	for i := range notebooks.MaxChildren {
		_ = s.add(key, "S", fmt.Sprint(i))
	}
	if err := s.room.Check(wish(key, "S", "more")); !errors.Is(err, notebooks.ErrFull) {
		t.Errorf("one child more: %v", err)
	}
	if err := s.room.Check(wish(key, "S", "7")); err != nil {
		t.Errorf("in the place of one: %v", err)
	}
	// What was planned before the last came is refused when it is applied.
	u := newStory(t)
	m, err := u.room.PlanAdd(wish(key, "S", "more"), u.stored(1))
	u.room, u.entries = s.room, s.entries
	if err := u.do(m, err); !errors.Is(err, notebooks.ErrFull) {
		t.Errorf("applied: %v", err)
	}
	for i := range notebooks.MaxTimelines - 1 {
		_ = s.add(key, fmt.Sprint("T", i), "a")
	}
	if err := s.room.Check(wish(key, "U", "a")); !errors.Is(err, notebooks.ErrFull) {
		t.Errorf("one timeline more: %v", err)
	}
}

func TestBadWishesAreRefused(t *testing.T) {
	r := newStory(t).room
	key := keyOf(t, "N.ONE")
	for _, w := range []notebooks.Wish{
		wish(key, "", "a"), wish(key, "S", ""), wish(key, "S\n", "a"), wish(key, "S", "a\x00"), wish(key, "\xff", "a"),
		wish(key, strings.Repeat("x", 251), "a"),
		{Key: key, Timeline: "S", Name: "a"},
		{Key: key, Timeline: "S", Name: "a", Column: "t", MessageColumn: strings.Repeat("x", 251)},
	} {
		if _, err := r.PlanAdd(w, notebooks.Stored{Folder: "~0-" + strings.Repeat("0", 32)}); !errors.Is(err, notebooks.ErrInvalid) {
			t.Errorf("%.60q, %.60q: %v", w.Timeline, w.Name, err)
		}
	}
	s := newStory(t)
	for _, folder := range []string{"", "x", "~99-" + strings.Repeat("0", 32), "~0-../" + strings.Repeat("0", 29), "~-1-" + strings.Repeat("0", 32)} {
		if err := s.do(r.PlanAdd(wish(key, "S", "a"), notebooks.Stored{Folder: folder})); !errors.Is(err, notebooks.ErrInvalid) {
			t.Errorf("folder %q: %v", folder, err)
		}
	}
}

// model is what the room should be: children by name, in one map.
type model map[string]string // "notebook timeline name" to the folder

// Long random stories agree with the model, and every folder that was ever named is
// named, or unused, or swept: never two of them.
func TestRandomStoriesAgreeWithAModel(t *testing.T) {
	for seed := range uint64(20) {
		chance := rand.New(rand.NewPCG(seed, 1))
		s, m, ever, swept := newStory(t), model{}, map[string]bool{}, map[string]bool{}
		pick := func(prefix string, n int) string { return prefix + fmt.Sprint(chance.IntN(n)) }
		for range 300 {
			key := keyOf(t, pick("N.B", 3))
			line, name := pick("S", 3), pick("c", 4)
			place := fmt.Sprint(key.Notebook, " ", line, " ", name)
			switch chance.IntN(12) {
			case 0:
				if s.do(s.room.PlanDelete(key)) != nil {
					t.Fatal("a deletion was refused")
				}
				for old := range m {
					if strings.HasPrefix(old, key.Notebook.String()+" ") {
						swept[m[old]] = true // with its notebook
						delete(m, old)
					}
				}
				for folder := range ever {
					if strings.HasPrefix(folder, key.Notebook.String()) {
						swept[folder] = true
					}
				}
			case 1:
				unused := s.room.Unused()
				if err := s.do(notebooks.PlanSwept(ids.RootOrg, unused)); err != nil {
					t.Fatal(err)
				}
				for _, u := range unused {
					swept[u.Notebook.String()+" "+u.Folder] = true
				}
			case 2, 3, 4:
				plan, err := s.room.PlanRemove(key, line, name)
				if _, there := m[place]; there != (err == nil) {
					t.Fatalf("seed %d: remove %s: %v", seed, place, err)
				}
				if err == nil {
					_ = s.do(plan, nil)
					delete(m, place)
				}
			default:
				rows := s.stored(1)
				if err := s.do(s.room.PlanAdd(wish(key, line, name), rows)); err != nil {
					t.Fatal(err)
				}
				m[place] = key.Notebook.String() + " " + rows.Folder
				ever[m[place]] = true
			}
		}
		agree(t, seed, s.room, m, ever, swept)
	}
}

func agree(t *testing.T, seed uint64, r *notebooks.Room, m model, ever, swept map[string]bool) {
	t.Helper()
	named := model{}
	for _, text := range []string{"N.B0", "N.B1", "N.B2"} {
		for _, line := range r.Timelines(keyOf(t, text)) {
			if !slices.IsSortedFunc(line.Children, func(a, b notebooks.Child) int { return strings.Compare(a.Name, b.Name) }) {
				t.Errorf("seed %d: children of %s are out of order", seed, line.Name)
			}
			for _, c := range line.Children {
				named[text+" "+line.Name+" "+c.Name] = text + " " + c.Folder
			}
		}
	}
	if fmt.Sprint(named) != fmt.Sprint(m) {
		t.Errorf("seed %d: the room has %v, the model %v", seed, named, m)
	}
	now := map[string]int{}
	for _, folder := range named {
		now[folder]++
	}
	for _, u := range r.Unused() {
		if u.Folder != "" {
			now[u.Notebook.String()+" "+u.Folder]++
		}
	}
	for folder := range ever {
		want := 1
		if swept[folder] {
			want = 0
		}
		if now[folder] != want {
			t.Errorf("seed %d: folder %s is there %d times, not %d", seed, folder, now[folder], want)
		}
	}
}

func FuzzRestore(f *testing.F) {
	var text strings.Builder
	r := notebooks.New(notebooks.Options{})
	for _, e := range tell(f) {
		_ = r.Apply(e)
	}
	if _, err := r.View().WriteTo(&text); err != nil {
		f.Fatal(err)
	}
	f.Add(text.String())
	f.Add(`{"notebook":"N.A","unused":3}` + "\n" + `{"last":4}`)
	f.Add(`{"notebook":"N.A","timeline":"b","child":{"name":"x","folder":"~1-00000000000000000000000000000000"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		r := notebooks.New(notebooks.Options{})
		if err := r.Restore(strings.NewReader(text)); err != nil {
			return
		}
		var once, twice strings.Builder
		if _, err := r.View().WriteTo(&once); err != nil {
			t.Fatal(err)
		}
		if err := r.Restore(strings.NewReader(once.String())); err != nil {
			t.Fatalf("%q does not restore: %v", once.String(), err)
		}
		if _, err := r.View().WriteTo(&twice); err != nil || once.String() != twice.String() {
			t.Errorf("%q, then %q: %v", once.String(), twice.String(), err)
		}
	})
}
