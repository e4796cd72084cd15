package endpoint_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"raptorpack/vql"
)

// makeDatabase runs statements on a new database and returns its name. The
// connection stays open until the test ends, so that a WAL stays too.
func makeDatabase(t testing.TB, statements ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x y?#.db")
	db, err := sql.Open("sqlite", "file:"+strings.NewReplacer("?", "%3f", "#", "%23").Replace(name))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	return name
}

const someTable = `CREATE TABLE t (id INTEGER, name TEXT, data BLOB, f REAL);
	INSERT INTO t VALUES (1, 'one', x'00ff41', 1.5), (2, 'two', NULL, 2), (3, 'drei', 'text', NULL)`

// untouched fails the test unless a folder is the same after run as before.
func untouched(t *testing.T, folder string, run func()) {
	t.Helper()
	look := func() (out []string) {
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			data, err := os.ReadFile(filepath.Join(folder, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, e.Name()+" "+string(data))
		}
		return out
	}
	before := look()
	run()
	if !slices.Equal(before, look()) {
		t.Errorf("files in %s were changed, added or removed", folder)
	}
}

func TestSQLiteGivesRows(t *testing.T) {
	s := newSession(t, map[string]any{"DB": makeDatabase(t, someTable)})
	s.want(`SELECT * FROM sqlite(file=DB, query='SELECT * FROM t ORDER BY id')`,
		`{"id":1,"name":"one","data":"\u0000\ufffdA","f":1.5}`, `{"id":2,"name":"two","data":null,"f":2}`, `{"id":3,"name":"drei","data":"text","f":null}`)
	s.want(`SELECT * FROM sqlite(file=DB, query='SELECT name FROM t WHERE id > ? AND name != ?', args=[1, 'two'])`, `{"name":"drei"}`)
	s.want(`SELECT * FROM sqlite(file=DB, query='SELECT name FROM t WHERE id = ?', args=2)`, `{"name":"two"}`)
	s.want(`SELECT * FROM sqlite(file=DB, query='SELECT name FROM t WHERE id = :which', args=dict(which=1))`, `{"name":"one"}`)
	s.want(`SELECT * FROM sqlite(file=DB, query='SELECT id, id FROM t LIMIT 1')`, `{"id":1,"id_2":1}`)
	s.want(`SELECT * FROM sqlite(file=DB, query='SELECT count(*) AS N FROM t', accessor='file')`, `{"N":3}`)
}

func TestSQLiteReadsWhatOnlyTheWALHolds(t *testing.T) {
	name := makeDatabase(t, `PRAGMA journal_mode=WAL`, `PRAGMA wal_autocheckpoint=0`, someTable)
	if info, err := os.Stat(name + "-wal"); err != nil || info.Size() == 0 {
		t.Fatalf("there is no WAL: %v", err)
	}
	untouched(t, filepath.Dir(name), func() {
		s := newSession(t, map[string]any{"DB": name})
		s.want(`SELECT * FROM sqlite(file=DB, query='SELECT count(*) AS N FROM t')`, `{"N":3}`)
	})
}

func TestSQLiteWritesNowhere(t *testing.T) {
	name := makeDatabase(t, someTable)
	untouched(t, filepath.Dir(name), func() {
		s := newSession(t, map[string]any{"DB": name, "Out": name + ".out"})
		for _, q := range []string{
			`DELETE FROM t`, `VACUUM`, `VACUUM INTO ?`, `ATTACH ? AS other`, `PRAGMA journal_mode=WAL`, `CREATE TABLE u (x)`,
			`PRAGMA query_only=0; DELETE FROM t`,
		} {
			s.rows(`SELECT * FROM sqlite(file=DB, query='` + q + `', args=[Out])`)
		}
	})
}

func TestSQLiteCopiesWhatIsLockedAndCleansUp(t *testing.T) {
	name := makeDatabase(t, someTable, `PRAGMA locking_mode=EXCLUSIVE`, `BEGIN EXCLUSIVE`)
	s := newSession(t, map[string]any{"DB": name})
	s.want(`SELECT * FROM sqlite(file=DB, query='SELECT count(*) AS N FROM t')`, `{"N":3}`)
	left, err := os.ReadDir(s.scope.Session().Limits.TempDir)
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files stay: %v %v", left, err)
	}
}

func TestSQLiteThroughAnotherAccessor(t *testing.T) {
	data, err := os.ReadFile(makeDatabase(t, someTable))
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(t, map[string]any{"Data": string(data)})
	s.want(`SELECT * FROM sqlite(file=Data, accessor='data', query='SELECT name FROM t WHERE id=1')`, `{"name":"one"}`)
}

func TestSQLiteTellsBadInput(t *testing.T) {
	root := tree(t, map[string]string{"garbage": strings.Repeat("no database ", 100), "empty": "", "walless": strings.Repeat("\x02", 4096)})
	s := newSession(t, map[string]any{"Root": root, "DB": makeDatabase(t, someTable)})
	for file, want := range map[string]string{
		"garbage": "file is not a database", "missing": "no such file", "walless": "file is not a database", "empty": "no such table",
	} {
		s.want(`SELECT * FROM sqlite(file=Root + '/` + file + `', query='SELECT * FROM t')`)
		s.wantLog(want)
	}
	s.want(`SELECT * FROM sqlite(file=DB, query='SELEC')`)
	s.wantLog("syntax error")
	s.want(`SELECT * FROM sqlite(file=DB, query='SELECT zeroblob(100000000)')`)
	s.wantLog("too big")
}

func TestSQLiteEndsWithItsQuery(t *testing.T) {
	s := newSession(t, map[string]any{"DB": makeDatabase(t, someTable)})
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := s.each(ctx, `SELECT * FROM sqlite(file=DB, query='WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c) SELECT x FROM c WHERE x < 3 OR x = -1')`,
		func(*vql.Dict) error {
			if n++; n == 2 {
				cancel() // the statement now looks for a third row without end
			}
			return nil
		})
	if n != 2 || err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("%d rows, %v", n, err)
	}
}

func FuzzSQLite(f *testing.F) {
	data, err := os.ReadFile(makeDatabase(f, someTable))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, uint16(100), byte(7))
	f.Add(data, uint16(4096), byte(255))
	f.Add(data, uint16(18), byte(2))
	f.Fuzz(func(t *testing.T, data []byte, at uint16, b byte) {
		data = bytes.Clone(data)
		if int(at) < len(data) {
			data[at] = b
		}
		s := newSession(t, map[string]any{"Data": string(data)})
		s.rows(`SELECT * FROM sqlite(file=Data, accessor='data', query='SELECT * FROM t')`)
		if strings.Contains(s.log(), "PANIC") {
			t.Error(s.log())
		}
	})
}
