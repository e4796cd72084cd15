package endpoint_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/comparer"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"
)

// makeLevelDB writes a database that has tables, a log, replaced and removed keys.
func makeLevelDB(t testing.TB, o *opt.Options) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "db")
	db, err := leveldb.OpenFile(name, o)
	if err != nil {
		t.Fatal(err)
	}
	put := func(key, value string) {
		if err := db.Put([]byte(key), []byte(value), nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2000 {
		put(fmt.Sprintf("key%04d", i), fmt.Sprintf("old value %d %s", i, strings.Repeat("x", 100)))
	}
	if err := db.CompactRange(util.Range{}); err != nil {
		t.Fatal(err)
	}
	put("key0001", "new")
	for i := 2; i < 2000; i++ {
		if err := db.Delete([]byte(fmt.Sprintf("key%04d", i)), nil); err != nil {
			t.Fatal(err)
		}
	}
	put("\x00binary\xff", "\x01")
	put("large", strings.Repeat("y", 100_000)) // more than a block of the log
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLevelDB(t *testing.T) {
	for _, compression := range []opt.Compression{opt.SnappyCompression, opt.NoCompression} {
		name := makeLevelDB(t, &opt.Options{Compression: compression})
		untouched(t, name, func() {
			s := newSession(t, map[string]any{"DB": name})
			s.want(`SELECT Key, len(list=Value) AS N, Value[0:13] AS V FROM leveldb(file=DB)`,
				`{"Key":"\u0000binary\ufffd","N":1,"V":"\u0001"}`, `{"Key":"key0000","N":112,"V":"old value 0 x"}`,
				`{"Key":"key0001","N":3,"V":"new"}`, `{"Key":"large","N":100000,"V":"yyyyyyyyyyyyy"}`)
			if s.log() != "" {
				t.Errorf("an honest database gives log lines:\n%s", s.log())
			}
		})
	}
}

type otherOrder struct{ comparer.BasicComparer }

func (otherOrder) Compare(a, b []byte) int         { return bytes.Compare(b, a) }
func (otherOrder) Name() string                    { return "other" }
func (otherOrder) Separator(_, _, _ []byte) []byte { return nil }
func (otherOrder) Successor(_, _ []byte) []byte    { return nil }

func TestLevelDBOfAnotherOrderShowsAllValues(t *testing.T) {
	name := makeLevelDB(t, &opt.Options{Comparer: otherOrder{}})
	s := newSession(t, map[string]any{"DB": name})
	s.want(`SELECT Value[0:13] AS V FROM leveldb(file=DB) WHERE Key = 'key0001'`, `{"V":"old value 1 x"}`, `{"V":"new"}`)
	s.wantLog("values that were replaced are shown too")
}

func TestLevelDBTellsDamage(t *testing.T) {
	name := makeLevelDB(t, nil)
	tables, err := filepath.Glob(filepath.Join(name, "*.ldb"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	data, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	data[10] ^= 0xff
	if err := os.WriteFile(tables[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, map[string]any{"DB": name, "Root": tree(t, map[string]string{"a": "", "bad/CURRENT": "../x", "bad/000001.ldb": "short", "bad/000002.log": "0123456789"})})
	if rows := s.rows(`SELECT Key FROM leveldb(file=DB)`); len(rows) < 3 {
		t.Errorf("%d rows behind the damage", len(rows))
	}
	s.wantLog("the checksum of the block at 0 is wrong")
	s.want(`SELECT * FROM leveldb(file=Root + '/bad')`)
	s.wantLog("CURRENT names no manifest")
	s.wantLog("a table of 5 bytes")
	s.wantLog("the record is not whole")
	s.want(`SELECT * FROM leveldb(file=Root)`)
	s.wantLog("holds no tables and no logs")
	s.want(`SELECT * FROM leveldb(file='/none/such')`)
	s.wantLog("no such file")
}

func FuzzLevelDB(f *testing.F) {
	name := makeLevelDB(f, nil)
	for _, pattern := range []string{"*.ldb", "*.log", "MANIFEST-*"} {
		names, err := filepath.Glob(filepath.Join(name, pattern))
		if err != nil || len(names) == 0 {
			f.Fatal(pattern, err)
		}
		data, err := os.ReadFile(names[0])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data[max(0, len(data)-4000):], data[:min(len(data), 4000)], data[:min(len(data), 400)])
	}
	f.Fuzz(func(t *testing.T, table, log, manifest []byte) {
		root := tree(t, map[string]string{"CURRENT": "MANIFEST-000001\n", "MANIFEST-000001": string(manifest), "000002.ldb": string(table), "000003.log": string(log)})
		s := newSession(t, map[string]any{"DB": root})
		s.rows(`SELECT * FROM leveldb(file=DB)`)
		if strings.Contains(s.log(), "PANIC") {
			t.Error(s.log())
		}
	})
}
