package vql_test

import (
	"context"
	"testing"

	"raptorpack/vql"
)

// benchQuery runs a program over b.N rows.
func benchQuery(b *testing.B, text string) {
	scope := engine().NewScope(vql.SessionOptions{Env: vql.NewDict().Set("N", int64(b.N)), Log: func(_, m string) { b.Log(m) }})
	defer scope.Close()
	p, err := vql.Parse(text)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	var buffer []byte
	writer := scope.JSON()
	err = scope.RunProgram(context.Background(), p, func(row *vql.Dict) error {
		buffer = writer.AppendLine(buffer[:0], row)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkSelect(b *testing.B) {
	benchQuery(b, "SELECT _value, 'text' AS T FROM range(end=N)")
}

func BenchmarkWhere(b *testing.B) {
	benchQuery(b, "SELECT _value AS V, format(format='%d', args=_value) AS F FROM range(end=N) WHERE _value > 5 AND F =~ '5'")
}

func BenchmarkGroup(b *testing.B) {
	benchQuery(b, "SELECT count() AS C, sum(item=_value) AS S FROM range(end=N) GROUP BY _value > 100")
}

func BenchmarkParse(b *testing.B) {
	const text = "LET a = SELECT Name, Size FROM glob(globs='/etc/*') WHERE Size > 5 AND Name =~ 'conf' SELECT * FROM a ORDER BY Size LIMIT 5"
	b.ReportAllocs()
	for b.Loop() {
		if _, err := vql.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	row := vql.NewDict().Set("Name", "some file name").Set("Size", int64(12345)).Set("Path", "/usr/share/doc/some/file name").
		Set("Nested", vql.NewDict().Set("a", 1.5).Set("b", []any{"x", true, nil}))
	var buffer []byte
	b.ReportAllocs()
	for b.Loop() {
		buffer = vql.AppendJSON(buffer[:0], row)
	}
}
