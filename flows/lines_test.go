package flows_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"raptorpack/flows"
)

func TestCheckLinesKeepsBytesAndRenamesReserved(t *testing.T) {
	const splice = `"ClientId":"C.1","FlowId":"F.1"`
	cases := []struct{ name, in, splice, want string }{
		{"verbatim", "{\"a\":1}\n{ \"b\" : [1, {\"ClientId\":2}] }\n", "", "{\"a\":1}\n{ \"b\" : [1, {\"ClientId\":2}] }\n"},
		{"missing line end", `{"a":1}`, "", "{\"a\":1}\n"},
		{"blanks and carriage return", " {\"a\":1} \r\n", "", " {\"a\":1} \r\n"},
		{"reserved", `{"ClientId":1,"x":2,"_ts":3,"FlowId":4,"_Source":5}` + "\n", "", `{"client_ClientId":1,"x":2,"client__ts":3,"client_FlowId":4,"client__Source":5}` + "\n"},
		{"reserved twice", `{"_ts":1,"_ts":2}` + "\n", "", `{"client__ts":1,"client__ts":2}` + "\n"},
		{"reserved in escapes", `{"Client\u0049d":1}` + "\n", "", `{"client_Client\u0049d":1}` + "\n"},
		{"reserved only in a value", `{"a":"ClientId"}` + "\n", "", `{"a":"ClientId"}` + "\n"},
		{"other case", `{"clientid":1}` + "\n", "", `{"clientid":1}` + "\n"},
		{"splice", "{\"a\":1}\n", splice, `{"ClientId":"C.1","FlowId":"F.1","a":1}` + "\n"},
		{"splice into empty", "{ }\n{}\n", splice, `{"ClientId":"C.1","FlowId":"F.1" }` + "\n" + `{"ClientId":"C.1","FlowId":"F.1"}` + "\n"},
		{"splice beside reserved", `{"FlowId":1}` + "\n", splice, `{"ClientId":"C.1","FlowId":"F.1","client_FlowId":1}` + "\n"},
		{"change in the middle", "{\"a\":1}\n{\"_ts\":1}\n{\"b\":1}\n", "", "{\"a\":1}\n{\"client__ts\":1}\n{\"b\":1}\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, rows, err := flows.CheckLines([]byte(c.in), []byte(c.splice))
			if err != nil || string(got) != c.want {
				t.Fatalf("got %q, %v; want %q", got, err, c.want)
			}
			if want := int64(strings.Count(c.want, "\n")); rows != want {
				t.Errorf("counted %d rows, want %d", rows, want)
			}
		})
	}
}

// Queries on the server tell of clients and flows by these names.
func TestCheckLinesLeavesTheServerItsNames(t *testing.T) {
	const in = `{"ClientId":"C.1","FlowId":"F.1","_ts":1,"_Source":"x"}` + "\n"
	got, err := flows.CheckOwnLines([]byte(in))
	if want := `{"ClientId":"C.1","FlowId":"F.1","client__ts":1,"client__Source":"x"}` + "\n"; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}

func TestCheckLinesRefuses(t *testing.T) {
	deep := strings.Repeat(`{"a":`, flows.MaxDepth+1) + "1" + strings.Repeat("}", flows.MaxDepth+1)
	for _, in := range []string{
		"1", "[]", `"x"`, "null", "{", "}", `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{"a":1}{"b":2}`, `{"a":1} x`,
		"\n", "{\"a\":1}\n\n{\"b\":1}\n", "{\"a\":\n1}", "{\"a\":\"\n\"}", `{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":+1}`,
		`{"a":1e}`, `{"a":tru}`, `{"a":"\x"}`, `{"a":"\u12g4"}`, `{"a":[1,]}`, `{"a":[1}`, `{"a":{]}`, `{'a':1}`, `{a:1}`,
		"{\"a\":\"\x01\"}", `{"a":NaN}`, "\xef\xbb\xbf{}", deep,
		`{"a":"` + strings.Repeat("x", 9<<20) + `"}`,
	} {
		if _, _, err := flows.CheckLines([]byte(in), nil); !errors.Is(err, flows.ErrBadLine) {
			t.Errorf("%.60q: error %v, want ErrBadLine", in, err)
		}
	}
	fine := strings.Repeat(`{"a":`, flows.MaxDepth) + "1" + strings.Repeat("}", flows.MaxDepth)
	if _, _, err := flows.CheckLines([]byte(fine), nil); err != nil {
		t.Errorf("%d levels: %v", flows.MaxDepth, err)
	}
}

// FuzzRows holds the checker against encoding/json: it accepts a line exactly if
// that is one object, and what it gives back decodes to the same columns with
// reserved ones renamed and the server's first.
func FuzzRows(f *testing.F) {
	for _, seed := range []string{
		`{"a":1}`, `{"ClientId":"x","b":[true,false,null,-1.5e+3,"\ud83d\ude00"]}`, `{"\u005fts":1}`, `{}`, ` { } `, `{"a":{"b":[{}]}}`,
		`{"a":"long enough for words of eight bytes \\ and \" more"}`, "{\"a\":\"\x80\xff\"}", "{\"a\":1}\n{\"b\":2}\n", "[1]", "{\"a\":1}\r\n",
	} {
		f.Add([]byte(seed))
	}
	const splice = `"ClientId":"C.0000000000000001","FlowId":"F.1"`
	f.Fuzz(func(t *testing.T, text []byte) {
		got, rows, err := flows.CheckLines(text, []byte(splice))
		var want []map[string]json.RawMessage
		fine := true
		for _, line := range bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n")) {
			var row map[string]json.RawMessage
			if len(text) == 0 {
				break
			}
			if json.Unmarshal(line, &row) != nil || row == nil {
				fine = false
				break
			}
			want = append(want, row)
		}
		if err != nil {
			if fine && !strings.Contains(err.Error(), "levels") {
				t.Fatalf("refused %q: %v", text, err)
			}
			return
		}
		if !fine {
			t.Fatalf("accepted %q", text)
		}
		lines := bytes.Split(bytes.TrimSuffix(got, []byte("\n")), []byte("\n"))
		if rows != int64(len(want)) || len(want) > 0 && len(lines) != len(want) {
			t.Fatalf("%d rows in %d lines, want %d", rows, len(lines), len(want))
		}
		for i, row := range want {
			checkSpliced(t, lines[i], row)
		}
	})
}

func checkSpliced(t *testing.T, line []byte, row map[string]json.RawMessage) {
	t.Helper()
	var got map[string]json.RawMessage
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatalf("wrote %q: %v", line, err)
	}
	if string(got["ClientId"]) != `"C.0000000000000001"` || string(got["FlowId"]) != `"F.1"` || got["_ts"] != nil || got["_Source"] != nil {
		t.Fatalf("reserved names of %q are the client's", line)
	}
	for name, value := range row {
		switch name {
		case "ClientId", "FlowId", "_ts", "_Source":
			name = "client_" + name
			if row[name] != nil {
				continue // the row has both; which one a decoder shows is its affair
			}
		}
		if strings.HasPrefix(name, "client_") {
			if row[strings.TrimPrefix(name, "client_")] != nil {
				continue
			}
		}
		if !bytes.Equal(got[name], value) {
			t.Fatalf("column %q is %q, was %q", name, got[name], value)
		}
	}
}

func BenchmarkRows(b *testing.B) {
	var text []byte
	for i := range 1000 {
		text = fmt.Appendf(text, `{"Pid":%d,"Name":"some-process","CommandLine":"/usr/bin/some-process --with arguments --and=%d more","Exe":"/usr/bin/some-process","CreateTime":"2026-01-02T03:04:05Z","Hash":{"SHA256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}`+"\n", i, i)
	}
	for name, splice := range map[string]string{"direct": "", "hunt": `"ClientId":"C.0000000000000001","FlowId":"F.0000000000000.H"`} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if n, err := flows.CheckOnly(text, []byte(splice)); n != 1000 || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
