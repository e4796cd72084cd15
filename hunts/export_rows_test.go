package hunts_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"raptorpack/filestore/filestoretest"
	"raptorpack/hunts"
	"raptorpack/ids"
)

func (g *rig) export(o hunts.ExportOptions) (string, *hunts.ExportReport) {
	g.t.Helper()
	var out bytes.Buffer
	report, err := g.results.Export(context.Background(), g.key, pslist, &out, o)
	g.check(err)
	if report.Bytes != int64(out.Len()) {
		g.t.Errorf("%d bytes reported, %d written", report.Bytes, out.Len())
	}
	return out.String(), report
}

func TestExportHasTheStoredBytes(t *testing.T) {
	g := newRig(t, 3)
	rows := []string{g.row(0, `,"A":1.50,"B":{"x":[1, 2]}`), g.row(0, `,"A":9223372036854775807`)}
	g.put("a-1", 0, 0, rows...)
	g.put("b-1", 0, 0, rows...)
	g.put("b-1", 1, 1, g.row(1, `,"A":"x"`))
	g.put("b-1", 2, 0, g.row(2, `,"A":"gone"`))
	g.must(t)(g.clients.PlanDelete(ids.RootOrg, id(2)))
	text, report := g.export(hunts.ExportOptions{Format: hunts.JSONL})
	if want := strings.Join(append(rows, g.row(1, `,"A":"x"`)), "\n") + "\n"; text != want {
		t.Errorf("rows are %s", text)
	}
	if report.Rows != 3 || report.Hidden != 1 || report.Missing != 1 || len(report.Holes) != 1 {
		t.Errorf("report %+v", report)
	}
	text, report = g.export(hunts.ExportOptions{Format: hunts.JSONL, Filter: "A=x"})
	if text != g.row(1, `,"A":"x"`)+"\n" || report.Rows != 1 {
		t.Errorf("filtered: %s", text)
	}
	text, _ = g.export(hunts.ExportOptions{Format: hunts.JSONL, Clients: []ids.Client{id(0)}})
	if text != strings.Join(rows, "\n")+"\n" {
		t.Errorf("of one client: %s", text)
	}
	if _, err := g.results.Export(context.Background(), g.key, pslist, io.Discard, hunts.ExportOptions{}); !errors.Is(err, hunts.ErrInvalid) {
		t.Errorf("without a format: %v", err)
	}
}

func TestCSV(t *testing.T) {
	g := newRig(t, 2)
	g.put("a-1", 0, 0,
		g.row(0, `,"A":"=1+1","B":null,"C":{"x":"a\"b, c"}`), g.row(0, `,"C":true,"A":"say \"hi\", or\r\nnot","D":-5`),
		g.row(0, `,"A":"-x","A":"twice","K\u0065y,\"":"\u00e4"`), g.row(0, `,"A":"\t","D":"@a,b"`))
	text, report := g.export(hunts.ExportOptions{Format: hunts.CSV})
	start := id(0).String() + "," + g.key.Hunt.Flow(0).String() + ","
	want := "ClientId,FlowId,A,B,C,D,\"Key,\"\"\"\r\n" +
		start + `'=1+1,,"{""x"":""a\""b, c""}",,` + "\r\n" +
		start + "\"say \"\"hi\"\", or\r\nnot\",,true,-5,\r\n" +
		start + "'-x,,,,ä\r\n" +
		start + "'\t,,,\"'@a,b\",\r\n"
	if text != want {
		t.Errorf("got\n%q, want\n%q", text, want)
	}
	if report.Unlisted != 0 || len(report.Columns) != 7 {
		t.Errorf("report %+v", report)
	}
	text, report = g.export(hunts.ExportOptions{Format: hunts.CSV, Columns: []string{"A", "None"}, Bare: true})
	if want := "A,None\r\n=1+1,\r\n\"say \"\"hi\"\", or\r\nnot\",\r\n-x,\r\n\t,\r\n"; text != want || report.Unlisted != 4*2+2+2+1+1 {
		t.Errorf("got %q, %+v", text, report)
	}
	text, _ = g.export(hunts.ExportOptions{Format: hunts.CSV, Columns: []string{"D"}})
	if want := "D\r\n\"\"\r\n-5\r\n\"\"\r\n\"'@a,b\"\r\n"; text != want {
		t.Errorf("one column: %q", text)
	}
}

// FuzzCSV holds what is written to what another reader of CSV and of JSON finds.
func FuzzCSV(f *testing.F) {
	f.Add("a", "=x", "b,\"\r\n", "\t1")
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2 string) {
		row, err := json.Marshal(map[string]string{key1: value1, key2: value2})
		if err != nil || strings.Contains(key1+value1+key2+value2, "\r") || !json.Valid(row) {
			return // encoding/csv makes \n of \r\n
		}
		var want map[string]string
		if err := json.Unmarshal(row, &want); err != nil {
			t.Fatal(err)
		}
		out := hunts.CSVOf(row, true)
		records, err := csv.NewReader(strings.NewReader(out)).ReadAll()
		if err != nil || len(records) != 2 || len(records[0]) != len(want) {
			t.Fatalf("%q of %s reads %q, %v", out, row, records, err)
		}
		for i, name := range records[0] {
			if records[1][i] != want[name] {
				t.Errorf("%q is %q, want %q", name, records[1][i], want[name])
			}
		}
		guarded, err := csv.NewReader(strings.NewReader(hunts.CSVOf(row, false))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, cell := range append(guarded[0], guarded[1]...) {
			if cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r") {
				t.Errorf("cell %q is a formula", cell)
			}
		}
	})
}

func TestColumnsOfLaterRowsAreFoundOrCounted(t *testing.T) {
	g := newRig(t, 1)
	for i := range 40 {
		g.put("a-1", 0, i, g.row(0, fmt.Sprintf(`,"C%d":1`, i)))
	}
	if _, report := g.export(hunts.ExportOptions{Format: hunts.CSV}); len(report.Columns) != 42 || report.Unlisted != 0 {
		t.Errorf("%d columns, %d cells without", len(report.Columns), report.Unlisted)
	}
}

func TestExportEndsWithItsWriterAndItsCaller(t *testing.T) {
	g := newRig(t, 1)
	for i := range 20 {
		g.numbers("a-1", 0, i*1000, 1000)
	}
	broken := errors.New("the browser left")
	_, err := g.results.Export(context.Background(), g.key, pslist, failing{broken}, hunts.ExportOptions{Format: hunts.CSV})
	if !errors.Is(err, broken) {
		t.Errorf("a writer that fails: %v", err)
	}
	hung := g.hang()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1) // one answer
	go func() {
		_, err := g.results.Export(ctx, g.key, pslist, io.Discard, hunts.ExportOptions{Format: hunts.JSONL})
		ended <- err
	}()
	g.waitFor("the export to read", func() bool { return hung.Hanging() > 0 })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who left: %v", err)
	}
	hung.Lift()
	g.faulty.Inject(filestoretest.Fault{Op: filestoretest.Open, Err: broken})
	if _, err := g.results.Export(context.Background(), g.key, pslist, io.Discard, hunts.ExportOptions{Format: hunts.JSONL}); !errors.Is(err, broken) {
		t.Errorf("a store that fails: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
