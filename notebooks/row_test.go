package notebooks

import (
	"bytes"
	"testing"
	"time"
)

func TestLinesAreGolden(t *testing.T) {
	at := time.Date(2024, 2, 29, 23, 59, 59, 120_000_000, time.FixedZone("", 3600))
	got := appendLine([]byte("x"), at, []byte(`{"a":1}`))
	if want := `x{"Timestamp":"2024-02-29T22:59:59.12Z","Row":{"a":1}}` + "\n"; string(got) != want {
		t.Errorf("%q, not %q", got, want)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`{"Timestamp":"2024-02-29T22:59:59.12Z","Row":{"a":1}}`))
	f.Add([]byte(`{"Timestamp":"0001-01-01T00:00:00.000000001Z","Row":{}}`))
	f.Add([]byte(`{"Timestamp":"2024-02-29T22:59:59+01:00","Row":{"Timestamp":"","Row":{}}}`))
	f.Add([]byte(`{"Timestamp":"","Row":}`))
	f.Add([]byte(`{"Timestamp":"2024-02-29T22:59:59Z","Row":{}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, line []byte) {
		at, row, err := parseLine(line)
		if err != nil {
			return
		}
		if !object(row) {
			t.Errorf("%q has the row %q", line, row)
		}
		if !Holds(at) {
			return // another year than is ever written
		}
		again := appendLine(nil, at, row)
		back, same, err := parseLine(bytes.TrimSuffix(again, []byte("\n")))
		if err != nil || !back.Equal(at) || !bytes.Equal(same, row) {
			t.Errorf("%q came back as %s, %q, %v", line, back, same, err)
		}
		if len(again)-len(row) > lineExtra {
			t.Errorf("%d bytes besides the row", len(again)-len(row))
		}
	})
}
