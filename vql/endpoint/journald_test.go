package endpoint_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"raptorpack/vql"
)

// journalFile unpacks a journal that systemd-journal-remote 252 made of 43 entries.
func journalFile(t testing.TB, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile("testdata/journal/" + name + ".journal.gz")
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseJournald(t *testing.T) {
	for _, name := range []string{"regular-zstd", "compact-zstd"} {
		s := newSession(t, map[string]any{"J": string(journalFile(t, name))})
		rows := s.rows(`SELECT * FROM parse_journald(filename=J, accessor='data')`)
		if len(rows) != 43 {
			t.Fatalf("%s: %d rows\n%s", name, len(rows), s.log())
		}
		for i, want := range map[int]string{
			0: `{"System":{"Seq":1,"Timestamp":"2023-11-14T22:13:20Z","_BOOT_ID":"2ee0bd0dc6634b72bde3ea1d66d0f9c9","_PID":42,"_UID":0,` +
				`"_SOURCE_REALTIME_TIMESTAMP":"2023-11-14T22:13:19.999Z","_HOSTNAME":"lab"},` +
				`"EventData":{"MESSAGE":"first line","PRIORITY":6,"SYSLOG_IDENTIFIER":"test","SYSLOG_PID":42}}`,
			1: `{"System":{"Seq":2,"Timestamp":"2023-11-14T22:13:21Z","_BOOT_ID":"2ee0bd0dc6634b72bde3ea1d66d0f9c9","_HOSTNAME":"lab","_PID":43},` +
				`"EventData":{"MESSAGE":"second\nwith two lines","PRIORITY":3,"BINARY":"\u0000\u0001\ufffdx"}}`,
			42: `{"System":{"Seq":43,"Timestamp":"2023-11-14T22:14:09Z","_BOOT_ID":"2ee0bd0dc6634b72bde3ea1d66d0f9c9","_HOSTNAME":"lab","_PID":139},` +
				`"EventData":{"PRIORITY":5,"ERRNO":2,"SYSLOG_TIMESTAMP":"Nov 14 22:13:20 ","MESSAGE":"entry 39","CODE_LINE":39}}`,
		} {
			if rows[i] != want {
				t.Errorf("%s: row %d\ngot:  %s\nwant: %s", name, i, rows[i], want)
			}
		}
		s.want(`SELECT len(list=EventData.MESSAGE) AS M, len(list=EventData.COREDUMP) AS C FROM parse_journald(filename=J, accessor='data') WHERE System.Seq = 3`,
			`{"M":4005,"C":2000}`)
		s.want(`SELECT System.Seq AS Seq FROM parse_journald(filename=J, accessor='data', start_time=1700000001, end_time='2023-11-14T22:13:22Z')`,
			`{"Seq":2}`, `{"Seq":3}`)
		s.want(`SELECT Timestamp, _PID, MESSAGE FROM parse_journald(filename=J, accessor='data', raw=TRUE) LIMIT 1`,
			`{"Timestamp":"2023-11-14T22:13:20Z","_PID":"42","MESSAGE":"first line"}`)
		if s.log() != "" {
			t.Errorf("%s: an honest journal gives log lines:\n%s", name, s.log())
		}
	}
}

func TestParseJournaldTellsDamage(t *testing.T) {
	j := journalFile(t, "regular-zstd")
	place := bytes.Index(j, []byte("first line"))
	broken := bytes.Clone(j)
	binary.LittleEndian.PutUint64(broken[place-len("MESSAGE=")-64+8:], 1<<40) // the length of that field's object
	cut := bytes.Clone(j[:place+3000])
	s := newSession(t, map[string]any{"Broken": string(broken), "Cut": string(cut), "Bad": "LPKSHHRH and no more"})
	s.rows(`SELECT * FROM parse_journald(filename=Broken, accessor='data')`)
	s.wantLog("damaged: object at ")
	if n := len(s.rows(`SELECT * FROM parse_journald(filename=Cut, accessor='data')`)); n == 0 || n == 43 {
		t.Errorf("a journal that was cut gives %d rows", n)
	}
	s.wantLog("unexpected EOF")
	s.want(`SELECT * FROM parse_journald(filename=[Bad, '/none'], accessor='data')`)
	s.wantLog("not a journal file")
	s.want(`SELECT * FROM parse_journald(filename='/none/such')`)
	s.wantLog("no such file")
}

// setEntries makes a journal look as it did when so many entries had been written.
func setEntries(j []byte, n uint64) []byte {
	j = bytes.Clone(j)
	binary.LittleEndian.PutUint64(j[152:], n)
	return j
}

func TestWatchJournaldFollowsAndRotates(t *testing.T) {
	whole := journalFile(t, "compact-zstd")
	synctest.Test(t, func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "system.journal")
		write := func(data []byte) {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Error(err)
			}
		}
		write(setEntries(whole, 40))
		s := newSession(t, map[string]any{"Name": name})
		var got []string
		go func() { // once the end has been found
			synctest.Wait()
			write(setEntries(whole, 41))
		}()
		err := s.each(t.Context(), `SELECT System.Seq AS Seq FROM watch_journald(filename=Name) LIMIT 6`, func(row *vql.Dict) error {
			v, _ := row.Get("Seq")
			got = append(got, strconv.FormatUint(v.(uint64), 10))
			switch len(got) {
			case 1:
				write(setEntries(whole, 43))
			case 3:
				if err := os.Rename(name, name+".old"); err != nil {
					t.Error(err)
				}
				other := bytes.Clone(whole)
				other[24]++ // another file's id
				write(other)
			}
			return nil
		})
		if text := strings.Join(got, " "); err != nil || text != "41 42 43 1 2 3" {
			t.Errorf("got %q, %v\n%s", text, err, s.log())
		}
	})
}

func FuzzJournal(f *testing.F) {
	for _, name := range []string{"regular-zstd", "compact-zstd"} {
		j := journalFile(f, name)
		end := binary.LittleEndian.Uint64(j[136:]) + 4096
		small := bytes.Clone(j[:min(end, uint64(len(j)))])
		f.Add(small, uint32(0x5e0), byte(0xff))
		f.Add(small, uint32(96), byte(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, at uint32, b byte) {
		data = bytes.Clone(data)
		if int64(at) < int64(len(data)) {
			data[at] = b
		}
		s := newSession(t, map[string]any{"J": string(data)})
		s.rows(`SELECT * FROM parse_journald(filename=J, accessor='data')`)
		if strings.Contains(s.log(), "PANIC") {
			t.Error(s.log())
		}
	})
}
