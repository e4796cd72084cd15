package filestore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/ids"
)

const watched = "Linux.Events.SSH/Logins"

// growing is a segment that its incarnation appends to.
type growing struct {
	handle *filestore.Handle
	size   int64
}

func grow(t rapid.TB, s *filestore.Store, artifact string, day time.Time, name string) *growing {
	t.Helper()
	h, err := s.CreateFile(background, path.Join(filestore.Events(ids.RootOrg, artifact, day).String(), name+".jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	return &growing{handle: h}
}

func (g *growing) append(t rapid.TB, b []byte) {
	t.Helper()
	if _, err := g.handle.WriteAt(background, b, g.size); err != nil {
		t.Fatal(err)
	}
	g.size += int64(len(b))
}

func (g *growing) close(t rapid.TB) {
	t.Helper()
	if err := g.handle.Close(background); err != nil {
		t.Fatal(err)
	}
}

// eventBatch is the n-th batch that a client ever sent: rows of its number.
func eventBatch(c, n, rows int) filestore.Append {
	text := ""
	for i := range rows {
		text += fmt.Sprintf(`{"c":%d,"n":%d,"i":%d};`, c, n, i)
	}
	a := filestore.Append{Extent: filestore.Extent{Client: client(c), Name: watched, Rows: int64(rows)}, Lines: lines(text)}
	binary.BigEndian.PutUint64(a.Extent.Digest[:], uint64(n+1))
	return a
}

func newTail(t rapid.TB, r *filestore.Reader, artifact, place string) *filestore.Tail {
	t.Helper()
	tail, err := r.NewTail(filestore.TailOptions{Name: artifact, Place: place})
	if err != nil {
		t.Fatal(err)
	}
	return tail
}

func next(t rapid.TB, tail *filestore.Tail, limit int) *filestore.TailPage {
	t.Helper()
	page, err := tail.Next(background, limit)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// TestTailGivesEachRowOnce lets nodes append batches, some sent again to another
// node or on another day, while a tail reads, and now and then another one goes on
// where it stood.
func TestTailGivesEachRowOnce(t *testing.T) {
	dir := newDisk(t)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		s, err := filestore.Open("", filestore.Options{FS: dir, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(context.Background())
		artifact, today := fmt.Sprintf("Watched.In.Run%d", run), time.Now().UTC()
		days := []time.Time{today, today.AddDate(0, 0, 1)}
		files := map[string]*growing{}
		tail := newTail(t, newReader(s), artifact, filestore.PlaceFrom(today))
		got, sent := map[string]int{}, map[string]int{}
		take := func(page *filestore.TailPage) *filestore.TailPage {
			for _, row := range page.Rows {
				got[string(row.Line)]++
			}
			return page
		}
		var batches []filestore.Append
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1: // a node stores batches, old ones among them, in one member
				day := days[rapid.IntRange(0, 1).Draw(t, "day")]
				name := fmt.Sprintf("node-%d", rapid.IntRange(1, 3).Draw(t, "node"))
				key := day.Format(time.DateOnly) + name
				if files[key] == nil {
					files[key] = grow(t, s, artifact, day, name)
					defer files[key].close(t)
				}
				var member []filestore.Append
				for range rapid.IntRange(1, 3).Draw(t, "batches") {
					if len(batches) > 0 && rapid.Bool().Draw(t, "again") {
						member = append(member, rapid.SampledFrom(batches).Draw(t, "which"))
						continue
					}
					b := eventBatch(rapid.IntRange(1, 2).Draw(t, "client"), len(batches), rapid.IntRange(1, 4).Draw(t, "rows"))
					batches, member = append(batches, b), append(member, b)
				}
				whole, err := filestore.Pack(member...)
				if err != nil {
					t.Fatal(err)
				}
				half := rapid.IntRange(0, len(whole)).Draw(t, "seen before it is whole")
				files[key].append(t, whole[:half])
				take(next(t, tail, 2))
				files[key].append(t, whole[half:])
			case 2:
				take(next(t, tail, rapid.IntRange(1, 5).Draw(t, "limit")))
			case 3: // another node goes on
				tail = newTail(t, newReader(s), artifact, take(next(t, tail, 1)).Place)
			}
		}
		for page := take(next(t, tail, 3)); page.More; {
			page = take(next(t, tail, 3))
		}
		for _, b := range batches {
			for line := range strings.Lines(string(b.Lines)) {
				sent[strings.TrimSuffix(line, "\n")]++
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(sent) {
			t.Fatalf("given %v, stored %v", got, sent)
		}
	})
}

func TestTailWithoutAPlaceBeginsBehindWhatIsThere(t *testing.T) {
	s, _ := newFaulty(t)
	today := time.Now().UTC()
	file := grow(t, s, watched, today, "a-1")
	defer file.close(t)
	file.append(t, pack(t, eventBatch(1, 0, 2)))
	tail := newTail(t, newReader(s), watched, "")
	if page := next(t, tail, 0); len(page.Rows) != 0 || page.Place == "" {
		t.Fatalf("%d rows at first, place %q", len(page.Rows), page.Place)
	}
	file.append(t, pack(t, eventBatch(1, 0, 2), eventBatch(2, 1, 1)))
	page := next(t, tail, 0)
	if len(page.Rows) != 1 || page.Rows[0].Client != client(2) {
		t.Fatalf("rows %+v, want that of the batch that was not there", page.Rows)
	}
	if page := next(t, newTail(t, newReader(s), watched, page.Place), 0); len(page.Rows) != 0 {
		t.Errorf("rows %+v behind the last place", page.Rows)
	}
}

func TestTailOfOneClient(t *testing.T) {
	s, _ := newFaulty(t)
	file := grow(t, s, watched, time.Now(), "a-1")
	defer file.close(t)
	file.append(t, pack(t, eventBatch(1, 0, 2), eventBatch(2, 1, 1)))
	tail, err := newReader(s).NewTail(filestore.TailOptions{Name: watched, Client: client(2), Place: filestore.PlaceFrom(time.Now())})
	check(t, err)
	if page := next(t, tail, 0); len(page.Rows) != 1 || page.Rows[0].Client != client(2) {
		t.Errorf("rows %+v", page.Rows)
	}
}

// A look that meets an error gives what it has; the next one goes on behind it.
func TestTailPassesOverNothingAfterAnError(t *testing.T) {
	s, faulty := newFaulty(t)
	for i, name := range []string{"a-1", "b-1", "c-1"} {
		file := grow(t, s, watched, time.Now(), name)
		file.append(t, pack(t, eventBatch(1, i, 1)))
		file.close(t)
	}
	tail := newTail(t, newReader(s), watched, filestore.PlaceFrom(time.Now()))
	faulty.Inject(filestoretest.Fault{Op: filestoretest.Read, Match: func(p string) bool { return path.Base(p) == "b-1.jsonl.gz" }, Err: errors.New("bad luck"), Times: 1, Skip: 1})
	rows := 0
	for range 3 {
		page, err := tail.Next(background, 0)
		if err == nil {
			rows += len(page.Rows)
		}
	}
	if rows != 3 {
		t.Errorf("%d rows, want 3", rows)
	}
}

func FuzzPlace(f *testing.F) {
	f.Add("AQ")
	f.Add(filestore.PlaceFrom(time.Unix(0, 0)))
	f.Fuzz(func(t *testing.T, text string) {
		place, err := filestore.ParsePlace(text)
		if err != nil && !errors.Is(err, filestore.ErrBadCursor) {
			t.Error(err)
		}
		if err != nil {
			return
		}
		if again, err := filestore.ParsePlace(place); err != nil || again != place {
			t.Errorf("%q is read as %q, and that as %q: %v", text, place, again, err)
		}
	})
}
