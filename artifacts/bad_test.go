package artifacts_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"raptorpack/artifacts"
)

// findings reads and judges files together, as the command verify does.
func findings(t *testing.T, files []string) string {
	t.Helper()
	repository := artifacts.NewRepository(builtIn(t))
	var out strings.Builder
	var read []*artifacts.Definition
	var names []string
	say := func(p artifacts.Problem) {
		p.File = filepath.Base(p.File)
		fmt.Fprintln(&out, strings.ReplaceAll(p.String(), "\n", `\n`))
	}
	for _, file := range files {
		d, err := artifacts.ParseFile(file)
		var invalid *artifacts.Invalid
		var taken *artifacts.Taken
		if err == nil {
			read, names = append(read, d), append(names, file)
			err = repository.Add(d)
		}
		switch {
		case errors.As(err, &invalid):
			for _, p := range invalid.Problems {
				say(p)
			}
		case errors.As(err, &taken):
			say(artifacts.Problem{File: file, Line: taken.Line, Message: err.Error(), Rule: "name_taken"})
		case err != nil:
			t.Errorf("%s: %v", file, err)
		}
	}
	for i, d := range read {
		for _, p := range repository.Check(names[i], d, endpointPrimitives(t)) {
			say(p)
		}
	}
	return out.String()
}

func TestBadFilesAreNamedWithLineAndRule(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d bad files: %v", len(files), err)
	}
	got := findings(t, files)
	for _, file := range files {
		if !strings.Contains(got, filepath.Base(file)+":") {
			t.Errorf("%s: nothing was found", file)
		}
	}
	golden := "testdata/bad/want.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("findings differ from %s (-update writes them)\ngot:\n%s", golden, got)
	}
}

func TestHugeFilesAreJudgedWithinBounds(t *testing.T) {
	sources := func(n int) string {
		var out strings.Builder
		out.WriteString("name: Huge.Sources\nsources:\n")
		for i := range n {
			fmt.Fprintf(&out, "  - name: S%d\n    query: SELECT * FROM info()\n", i)
		}
		return out.String() + "  - query: SELECT * FROM nosuch()\n"
	}
	const query = "\nsources:\n  - query: SELECT * FROM nosuch()\n"
	for name, c := range map[string]struct{ text, want string }{
		"line of a megabyte":   {"name: Huge.Line\ndescription: " + strings.Repeat("x", 1<<20) + query, ":4: nosuch: unknown plugin"},
		"thousands of sources": {sources(2_000), ":4003: nosuch: unknown plugin"},
		"deep YAML":            {"name: Huge.Deep\nreference: " + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + query, ":2: exceeded max depth"},
		"deep VQL":             {"name: Huge.Vql\nsources:\n  - query: SELECT " + strings.Repeat("(", 20_000) + "1" + strings.Repeat(")", 20_000) + " FROM info()\n", ":3: sources[0].query: nested more than"},
		"too many bytes":       {"name: Huge.File\ndescription: " + strings.Repeat("x", 5<<20) + query, ":1: the file has more than"},
		"aliases of aliases":   {bomb(), ": more than 200000 fields and items"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "huge.yaml")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if got := findings(t, []string{file}); !strings.Contains(got, c.want) {
				t.Errorf("got %.500s, want %s", got, c.want)
			}
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > 1<<30 {
				t.Errorf("judging %d bytes took %d bytes of memory", len(c.text), used)
			}
		})
	}
}

// bomb is a file whose aliases stand for half a million fields.
func bomb() string {
	var out strings.Builder
	cells := strings.TrimSuffix(strings.Repeat("{type: vql}, ", 1000), ", ")
	fmt.Fprintf(&out, "name: Huge.Bomb\nsources:\n  - notebook: &n [%s]\n", cells)
	for range 250 {
		out.WriteString("  - {notebook: *n}\n")
	}
	return out.String()
}
