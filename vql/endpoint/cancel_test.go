package endpoint_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

// plausible gives an argument of each type that a primitive can work with.
func plausible(a vql.Arg, file, folder string) string {
	switch a.Name {
	case "argv":
		return "('sleep', '60')"
	case "globs":
		return "'" + folder + "/**'"
	case "accessor":
		return "'file'"
	case "root", "dirname":
		return "'" + folder + "'"
	case "dest":
		return "'" + filepath.Join(folder, "copy") + "'"
	case "url":
		return "'http://127.0.0.1:9/'" // discard: nobody listens
	case "profile":
		return "'[[\"S\", 1, [[\"a\", 0, \"uint8\"]]]]'"
	case "server":
		return "'127.0.0.1'"
	case "pid":
		return "1073741824" // beyond any
	case "db":
		return "'" + file + "'"
	}
	switch strings.TrimSuffix(a.Type, "[]") {
	case "path":
		return "'" + file + "'"
	case "int", "float":
		return "3"
	case "bool":
		return "TRUE"
	case "time":
		return "'2024-01-02T03:04:05Z'"
	case "dict":
		return "dict(a='b')"
	case "query":
		return "{ SELECT * FROM range(end=1000000) }"
	case "lambda":
		return "'x=>x'"
	case "any", "lazy":
		return "'text'"
	}
	return "'text'"
}

// calls are a call with the required arguments alone, and one with all.
func calls(e vql.Entry, file, folder string) []string {
	var required, all []string
	for _, a := range e.Args {
		given := fmt.Sprintf("`%s`=%s", a.Name, plausible(a, file, folder))
		all = append(all, given)
		if a.Required {
			required = append(required, given)
		}
	}
	if e.FreeForm {
		all = append(all, "further={ SELECT * FROM range(end=1000000) }")
	}
	return []string{
		"`" + e.Name + "`(" + strings.Join(required, ", ") + ")",
		"`" + e.Name + "`(" + strings.Join(all, ", ") + ")",
	}
}

// Every declared primitive returns when its query is cancelled: before it begins,
// and while it works.
func TestEveryPrimitiveStopsWhenCancelled(t *testing.T) {
	folder := tree(t, map[string]string{"a/b/c.txt": "some text\nof two lines\n", "d.json": `{"a": 1}`, "e.csv": "a,b\n1,2\n"})
	t.Chdir(folder) // some of them write, and to names without a folder too
	engine, err := vql.NewEngine(endpoint.Functions(), endpoint.Plugins())
	if err != nil {
		t.Fatal(err)
	}
	// The first scan of a process translates libyara, which no cancelling ends: the next
	// scan needs it as well. On a busy machine it takes longer than a query may.
	newSession(t, nil).want(`SELECT * FROM yara(rules='rule none { condition: false }', files='` + filepath.Join(folder, "d.json") + `')`)
	seen := 0
	for _, e := range engine.Reference() {
		if strings.HasPrefix(e.Name, "__") {
			continue
		}
		for _, call := range calls(e, filepath.Join(folder, "d.json"), folder) {
			text := "SELECT * FROM " + call
			if e.Kind == "function" {
				text = "SELECT " + call + " AS A FROM range(end=1000000)"
			}
			for _, after := range []time.Duration{0, 2 * time.Millisecond} {
				endsWhenCancelled(t, text, after)
			}
			seen++
		}
	}
	if seen < 250 {
		t.Errorf("only %d calls were tried", seen)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) == 0 {
		t.Errorf("the folder is gone: %v", err)
	}
}

// endsWhenCancelled runs a query, cancels it and waits for its end and for that of
// everything it began.
func endsWhenCancelled(t *testing.T, text string, after time.Duration) {
	t.Helper()
	s := newSession(t, nil, &uploads{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if after == 0 {
		cancel()
	} else {
		defer time.AfterFunc(after, cancel).Stop()
	}
	ended := make(chan struct{}) // closed at the end
	go func() {
		defer close(ended)
		_ = s.each(ctx, text, func(*vql.Dict) error { return nil }) // any end will do
		s.scope.Close()
	}()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s does not end", text)
	}
	for _, bad := range []string{"PANIC", "did not stop"} {
		if strings.Contains(s.log(), bad) {
			t.Errorf("%s: log\n%.2000s", text, s.log())
		}
	}
}
