package vql_test

import (
	"encoding/json"
	"io/fs"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"raptorpack/vql"
)

func TestJSON(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2023, 11, 14, 22, 13, 20, 120, time.UTC)
	for _, c := range []struct {
		value vql.Value
		want  string
	}{
		{nil, "null"},
		{vql.NULL, "null"},
		{true, "true"},
		{int64(math.MinInt64), "-9223372036854775808"},
		{uint64(math.MaxUint64), "18446744073709551615"},
		{int8(-3), "-3"},
		{2.0, "2"},
		{0.1, "0.1"},
		{1e21, "1e+21"},
		{1e20, "100000000000000000000"},
		{1e-7, "1e-7"},
		{1e-6, "0.000001"},
		{1.5e-10, "1.5e-10"},
		{0.0, "0"},
		{math.NaN(), "null"},
		{math.Inf(-1), "null"},
		{float32(1.5), "1.5"},
		{"a\"\\\n\r\t\x00\x1f\x7f<>&é\u2028", `"a\"\\\n\r\t\u0000\u001f\u007f<>&é\u2028"`},
		{"\xff ok \xc3", `"\ufffd ok \ufffd"`},
		{[]byte("hi\xff"), `"aGn/"`},
		{[]byte(nil), "null"},
		{[]any{}, "[]"},
		{[]any(nil), "null"},
		{[]string{"a", "b"}, `["a","b"]`},
		{[]int{1, 2}, "[1,2]"},
		{at, `"2023-11-14T23:13:20.00000012+01:00"`},
		{vql.NewDict().Set("b", 1).Set("a", []any{nil, vql.NewDict()}), `{"b":1,"a":[null,{}]}`},
		{fs.FileMode(0o644), "420"},
		{time.Duration(5), "5"},
		{netip.MustParseAddr("10.0.0.1"), `"10.0.0.1"`},
		{json.RawMessage(`{"x":1}`), `{"x":1}`},
		{json.Number("12345678901234567890"), "12345678901234567890"},
		{vql.NewPath(vql.PathLinux, "a", "b"), `"/a/b"`},
		{struct {
			A int `json:"a"`
		}{5}, `{"a":5}`},
		{func() {}, "null"},
		{make(chan int), "null"},
	} {
		j := vql.JSON{Location: berlin}
		got := string(j.Append([]byte("x"), c.value))
		if got != "x"+c.want {
			t.Errorf("%#v gives %s, want %s", c.value, got, c.want)
		}
	}
	if got := string(vql.AppendJSON(nil, at)); got != `"2023-11-14T22:13:20.00000012Z"` {
		t.Errorf("UTC: %s", got)
	}
}

func TestJSONOfDeepAndRingsEnds(t *testing.T) {
	ring := vql.NewDict()
	ring.Set("me", ring)
	out := vql.AppendJSON(nil, ring)
	if !json.Valid(out) || !strings.Contains(string(out), "null") {
		t.Errorf("%.100s", out)
	}
}

func FuzzJSONText(f *testing.F) {
	for _, s := range []string{"", "a", "\xff", "\u2028", "\"\\\x00", "é", "\xed\xa0\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var back string
		if err := json.Unmarshal(vql.AppendJSON(nil, s), &back); err != nil {
			t.Fatal(err)
		}
		if want := strings.ToValidUTF8(s, ""); strings.ReplaceAll(strings.ReplaceAll(back, "\ufffd", ""), "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
			t.Errorf("%q came back as %q", s, back)
		}
	})
}
