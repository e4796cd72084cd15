package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
)

// printed runs rows through a printer of the given format.
func printed(t *testing.T, format string, columns []column, rows ...string) string {
	t.Helper()
	var out bytes.Buffer
	c := &cobra.Command{}
	c.SetOut(&out)
	c.SetErr(&out)
	p, err := (&globals{format: format}).printer(c, columns...)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if err := p.row([]byte(row)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestRowsInEachFormat(t *testing.T) {
	rows := []string{`{"a":9223372036854775807,"b":"x,\"y\""}`, `{"b":"","c":[1,{"d":null}],"a":null}`}
	for _, c := range []struct{ format, want string }{
		{"jsonl", rows[0] + "\n" + rows[1] + "\n"},
		{"json", "[\n" + rows[0] + ",\n" + rows[1] + "\n]\n"},
		{"csv", "a,b,c\n9223372036854775807,\"x,\"\"y\"\"\",\n,,\"[1,{\"\"d\"\":null}]\"\n"},
		{"table", "a                    b      c\n9223372036854775807  x,\"y\"\n                            [1,{\"d\":null}]\n"},
		{"", rows[0] + "\n" + rows[1] + "\n"}, // no terminal
	} {
		if got := printed(t, c.format, nil, rows...); got != c.want {
			t.Errorf("%s:\n%q\nwant\n%q", c.format, got, c.want)
		}
	}
	if got := printed(t, "json", nil); got != "[\n]\n" {
		t.Errorf("no rows: %q", got)
	}
	fixed := []column{{"A", "a"}, {"DEEP", "c.1.d"}}
	if got := printed(t, "csv", fixed); got != "A,DEEP\n" {
		t.Errorf("fixed columns without rows: %q", got)
	}
}

func TestLateColumnsAreToldNotDropped(t *testing.T) {
	rows := make([]string, lookAhead+1)
	for i := range rows {
		rows[i] = `{"a":1}`
	}
	rows[lookAhead] = `{"a":1,"late":2}`
	if got := printed(t, "csv", nil, rows...); !strings.Contains(got, "further columns") || !strings.Contains(got, "late") {
		t.Errorf("no word of the column: %.200q", got)
	}
}

func TestCellsCannotCommandTerminalsOrSpreadsheets(t *testing.T) {
	hostile := `{"k\u001b[2J":"\u001b]0;owned\u0007\u202egnp.exe\u0000\u009b1m\nx\ty"}`
	got := printed(t, "table", nil, hostile)
	for _, bad := range []string{"\x1b", "\x07", "\u202e", "\x00", "\u009b", "\t"} {
		if strings.Contains(got, bad) {
			t.Errorf("%q passes: %q", bad, got)
		}
	}
	if !strings.Contains(got, `\x1b]0;owned\x07\u202e`) || strings.Count(got, "\n") != 2 {
		t.Errorf("table %q", got)
	}
	for text, want := range map[string]string{
		`"=cmd|' /C calc'!A0"`: "'=cmd|' /C calc'!A0", `"+1"`: "'+1", `"-1"`: "'-1", `"@SUM(1)"`: "'@SUM(1)", `"\t=1"`: "'\t=1", `"＝1"`: "'＝1",
		`-5`: "-5", `"a=b"`: "a=b", `""`: "", `1e3`: "1e3",
	} {
		csv := printed(t, "csv", nil, `{"n":`+text+`}`)
		cell := strings.Trim(strings.TrimSuffix(strings.TrimPrefix(csv, "n\n"), "\n"), `"`)
		if cell != want {
			t.Errorf("%s: %q, want %q", text, cell, want)
		}
	}
}

func TestTablesFitTheirTerminal(t *testing.T) {
	var out bytes.Buffer
	c := &cobra.Command{}
	c.SetOut(&out)
	p, err := (&globals{format: "table"}).printer(c)
	if err != nil {
		t.Fatal(err)
	}
	p.width = 40
	for _, row := range []string{`{"id":1,"text":"` + strings.Repeat("long ", 30) + `","wide":"日本語日本語日本語"}`, `{"id":2,"text":"short","wide":"x"}`} {
		if err := p.row([]byte(row)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(out.String(), "\n") {
		if width(line) > 40 {
			t.Errorf("%d places: %s", width(line), line)
		}
	}
	if !strings.Contains(out.String(), "…") || !strings.Contains(out.String(), "short") {
		t.Errorf("table:\n%s", out.String())
	}
}

func TestTaggedRowsKeepTheirBytes(t *testing.T) {
	p := &printer{format: "jsonl"}
	for row, want := range map[string]string{
		`{"a":1.0}`: `{"_Source":"A/B","a":1.0}`, `{}`: `{"_Source":"A/B"}`, `{ }`: `{"_Source":"A/B" }`, `{"_Source":"x"}`: `{"_Source":"x"}`,
	} {
		if got := string(p.tagged("A/B", []byte(row))); got != want {
			t.Errorf("%s: %s, want %s", row, got, want)
		}
	}
}

// closedPipe is a reader that has gone.
type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestABrokenPipeEndsQuietly(t *testing.T) {
	var errs bytes.Buffer
	if code := run([]string{"artifacts", "list"}, strings.NewReader(""), closedPipe{}, &errs); code != 0 || errs.Len() != 0 {
		t.Errorf("code %d, %q", code, errs.String())
	}
}

func TestABrokenConnectionIsTold(t *testing.T) {
	pipe := &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}
	connection := &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.EPIPE)}
	if !readerLeft(fmt.Errorf("print: %w", pipe)) || readerLeft(fmt.Errorf("reach server: %w", connection)) || readerLeft(errors.New("x")) {
		t.Error("a broken connection is taken for a reader that left, or the other way round")
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		want int
		err  error
	}{
		{exitUsage, usage("x")},
		{exitPartly, (&flowView{State: "incomplete"}).verdict()},
		{exitFailed, (&flowView{State: "errored"}).verdict()},
		{exitFailed, errors.New("x")},
		{exitNotFound, &exitError{(&problem{Status: 404}).exit(), errors.New("x")}},
		{exitForbidden, &exitError{(&problem{Status: 403}).exit(), errors.New("x")}},
		{exitUnreachable, &exitError{(&problem{Status: 503}).exit(), errors.New("x")}},
	} {
		if got := exitCode(t.Context(), c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
	if err := (&flowView{State: "completed"}).verdict(); err != nil {
		t.Error(err)
	}
}

func FuzzHarmless(f *testing.F) {
	f.Add("a\x1b[31m\u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		if got := harmless(s); strings.ContainsFunc(got, harmful) {
			t.Errorf("%q", got)
		}
	})
}
