package vql_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"raptorpack/vql"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logs collects a session's log lines.
type logs struct {
	mu    sync.Mutex
	lines []string
}

func (l *logs) add(level, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, level+":"+message)
}

func (l *logs) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

func (l *logs) contain(text string) bool {
	for _, line := range l.all() {
		if strings.Contains(line, text) {
			return true
		}
	}
	return false
}

var engine = sync.OnceValue(func() *vql.Engine {
	e, err := vql.NewEngine(testFunctions(), testPlugins())
	if err != nil {
		panic(err)
	}
	return e
})

// session makes a scope and its log; the test closes it.
func session(t testing.TB, o vql.SessionOptions) (*vql.Scope, *logs) {
	t.Helper()
	l := &logs{}
	o.Log = l.add
	if o.Limits.TempDir == "" {
		o.Limits.TempDir = t.TempDir()
	}
	scope := engine().NewScope(o)
	t.Cleanup(scope.Close)
	return scope, l
}

// query runs a program and returns its rows as JSON lines.
func query(t testing.TB, scope *vql.Scope, text string) ([]string, error) {
	t.Helper()
	p, err := vql.Parse(text)
	if err != nil {
		return nil, err
	}
	var rows []string
	err = scope.RunProgram(context.Background(), p, func(row *vql.Dict) error {
		rows = append(rows, string(scope.JSON().Append(nil, row)))
		return nil
	})
	return rows, err
}

// rows runs a program in a session of its own and fails the test on errors.
func rows(t testing.TB, text string) []string {
	t.Helper()
	scope, _ := session(t, vql.SessionOptions{})
	out, err := query(t, scope, text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}

// example is one query of testdata/language.md.
type example struct {
	line    int
	section string
	text    string
	rows    []string
	refused bool
	noRows  bool
	logs    []string
}

func examples(t testing.TB) []example {
	t.Helper()
	data, err := os.ReadFile("testdata/language.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []example
	var now *example
	section, inside, answered, line := "", false, false, 0
	scan := bufio.NewScanner(bytes.NewReader(data))
	for scan.Scan() {
		line++
		text := scan.Text()
		switch {
		case strings.HasPrefix(text, "## "):
			section = strings.TrimPrefix(text, "## ")
		case text == "```vql":
			inside, now = true, nil
		case text == "```":
			inside = false
		case !inside:
		case strings.HasPrefix(text, "=> ") && now != nil:
			answered = true
			now.expect(strings.TrimPrefix(text, "=> "))
		default:
			if now == nil || answered {
				out = append(out, example{line: line, section: section})
				now, answered = &out[len(out)-1], false
			}
			now.text += text + "\n"
		}
	}
	return out
}

func (e *example) expect(text string) {
	switch {
	case text == "(refused)":
		e.refused = true
	case text == "(no rows)":
		e.noRows = true
	case strings.HasPrefix(text, "(log) "):
		e.logs = append(e.logs, strings.TrimPrefix(text, "(log) "))
	default:
		e.rows = append(e.rows, text)
	}
}

// normal makes rows comparable: numbers and escapes in one form, key order kept.
func normal(t testing.TB, rows []string) []string {
	t.Helper()
	out := make([]string, len(rows))
	for i, row := range rows {
		dec := json.NewDecoder(strings.NewReader(row))
		dec.UseNumber()
		var b strings.Builder
		for {
			tok, err := dec.Token()
			if err != nil {
				break
			}
			if n, ok := tok.(json.Number); ok {
				if _, err := n.Int64(); err != nil {
					tok, _ = n.Float64()
				}
			}
			fmt.Fprintf(&b, "%v|", tok)
		}
		out[i] = b.String()
	}
	return out
}

func TestLanguage(t *testing.T) {
	all := examples(t)
	if len(all) < 85 {
		t.Fatalf("only %d examples found", len(all))
	}
	for _, e := range all {
		t.Run(fmt.Sprintf("line %d", e.line), func(t *testing.T) {
			scope, l := session(t, vql.SessionOptions{})
			got, err := query(t, scope, e.text)
			var syntax *vql.SyntaxError
			if e.refused {
				if !errors.As(err, &syntax) {
					t.Fatalf("%s: got %v and %q, want a syntax error", e.text, err, got)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", e.text, err)
			}
			if e.rows != nil || e.noRows {
				if diff := cmp.Diff(normal(t, e.rows), normal(t, got)); diff != "" {
					t.Errorf("%s: (-want +got)\n%s\ngot %s", e.text, diff, strings.Join(got, "\n"))
				}
			}
			for _, want := range e.logs {
				if !l.contain(want) {
					t.Errorf("%s: no log line contains %q: %q", e.text, want, l.all())
				}
			}
		})
	}
}
