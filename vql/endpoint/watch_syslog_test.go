package endpoint_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"raptorpack/vql"
)

// watched runs a query on a folder with a log and calls next after each line with
// the lines so far.
func watched(t *testing.T, query string, want []string, next func(root string, lines int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		root := tree(t, map[string]string{"log": "old 1\nold 2\nhalf"})
		s := newSession(t, map[string]any{"Root": root})
		go func() {
			synctest.Wait() // the end has been found
			next(root, 0)
		}()
		var got []string
		err := s.each(t.Context(), query, func(row *vql.Dict) error {
			v, _ := row.Get("Line")
			got = append(got, v.(string))
			if len(got) == len(want) {
				return vql.ErrStop
			}
			next(root, len(got))
			return nil
		})
		if err != nil || strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("got %q, %v\n%s", got, err, s.log())
		}
	})
}

func appendTo(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := f.WriteString(text); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestWatchSyslogGivesWholeNewLines(t *testing.T) {
	watched(t, `SELECT Line FROM watch_syslog(filename=Root + '/log')`, []string{"half of it", "", "new", "done"}, func(root string, lines int) {
		log := filepath.Join(root, "log")
		switch lines {
		case 0:
			appendTo(t, log, " of it\n\r\nnew\ndo")
		case 3:
			appendTo(t, log, "ne\n")
		}
	})
}

func TestWatchSyslogFollowsRotation(t *testing.T) {
	watched(t, `SELECT Line FROM watch_syslog(filename=Root + '/log')`, []string{"half+", "last", "unended", "first"}, func(root string, lines int) {
		log := filepath.Join(root, "log")
		switch lines {
		case 0:
			appendTo(t, log, "+\n")
		case 1:
			appendTo(t, log, "last\nunended")
			if err := os.Rename(log, log+".1"); err != nil {
				t.Error(err)
			}
			appendTo(t, log, "first\n")
		}
	})
}

func TestWatchSyslogReadsCutFilesFromTheirStart(t *testing.T) {
	watched(t, `SELECT Line FROM watch_syslog(filename=Root + '/log')`, []string{"half+", "a", "b"}, func(root string, lines int) {
		log := filepath.Join(root, "log")
		switch lines {
		case 0:
			appendTo(t, log, "+\n")
		case 1:
			if err := os.WriteFile(log, []byte("a\nb\n"), 0o600); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestWatchSyslogFindsNewFiles(t *testing.T) {
	watched(t, `SELECT Line FROM watch_syslog(query={ SELECT OSPath FROM glob(globs='*', root=Root) })`, []string{"halfx", "all of", "the new"}, func(root string, lines int) {
		switch lines {
		case 0:
			appendTo(t, filepath.Join(root, "log"), "x\n")
		case 1:
			appendTo(t, filepath.Join(root, "other"), "all of\nthe new\n")
		}
	})
}

func TestWatchSyslogWaitsForAMissingFileAndCutsLongLines(t *testing.T) {
	watched(t, `SELECT Line FROM watch_syslog(filename=Root + '/late', buffer_size=256)`,
		[]string{strings.Repeat("x", 256), strings.Repeat("x", 44), "end"}, func(root string, lines int) {
			if lines == 0 {
				appendTo(t, filepath.Join(root, "late"), strings.Repeat("x", 300)+"\nend\n")
			}
		})
}

// Two queries of a session share what is read of a file; each gets every line.
func TestWatchSyslogServesSeveralQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := tree(t, map[string]string{"log": ""})
		s := newSession(t, map[string]any{"Root": root})
		go func() {
			synctest.Wait()
			appendTo(t, filepath.Join(root, "log"), "1\n2\n3\n")
		}()
		got := map[string]string{}
		n := 0
		err := s.each(t.Context(), `SELECT * FROM chain(async=TRUE,
			a={ SELECT Line, 'a' AS Q FROM watch_syslog(filename=Root + '/log') LIMIT 3 },
			b={ SELECT Line, 'b' AS Q FROM watch_syslog(filename=Root + '/log') LIMIT 3 })`, func(row *vql.Dict) error {
			q, _ := row.Get("Q")
			line, _ := row.Get("Line")
			got[q.(string)] += line.(string)
			n++
			return nil
		})
		if err != nil || n != 6 || got["a"] != "123" || got["b"] != "123" {
			t.Errorf("got %v, %v\n%s", got, err, s.log())
		}
	})
}

func TestWatchSyslogNeedsAFile(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT * FROM watch_syslog()`)
	s.wantLog("watch_syslog: one of filename and query is needed")
}
