package vql_test

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"raptorpack/vql"
)

var update = flag.Bool("update", false, "write the golden files anew")

// brokenPrograms each lack something else.
var brokenPrograms = []string{
	"SELEC * FROM info()",
	"SELECT Name, Size\nFROM glob(globs='/etc/*'\nWHERE Size > 5",
	"LET x = 5\nSELECT x-1 AS Y FROM scope()",
	"SELECT hash(path=OSPath, Limit=5) FROM glob(globs='/*')",
	"SELECT *\nFROM info()\nLIMIT many",
	"SELECT * FROM",
	"SELECT [1, 2] AS A FROM scope()",
	"LET f(a,, b) = a + b\nSELECT f(a=1) FROM scope()",
	"LET a = 'never ended\n\nSELECT a FROM scope()",
	"SELECT A FROM info() GROUP A",
	"\tSELECT\t'tabs' FROM info() ORDER BY a.b",
	"SELECT " + strings.Repeat("'long', ", 40) + "]" + strings.Repeat(", 'long'", 40) + " FROM info()",
	"SELECT { SELECT A FROM info() WHERE A FROM scope()",
	"SELECT 'ünïcödé' + FROM info()",
	"-- nothing but a comment",
	strings.Repeat("(", 200),
}

func TestBrokenProgramsAreExplained(t *testing.T) {
	var b strings.Builder
	for _, text := range brokenPrograms {
		_, err := vql.Parse(text)
		var syntax *vql.SyntaxError
		if !errors.As(err, &syntax) {
			t.Fatalf("%s: %v", text, err)
		}
		b.WriteString(err.Error() + "\n\n")
	}
	const golden = "testdata/broken.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("errors (-want +got)\n%s", diff)
	}
}
