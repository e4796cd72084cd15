package server

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestRowsThatAreNoObjectsAreRefused(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 600) + "1" + strings.Repeat("}", 600)
	for _, line := range []string{"", "1", "[]", "null", `{"a":1`, `{"a":1}{}`, `{"a":1e999}`, deep} {
		if row, err := decodeRow([]byte(line)); err == nil {
			t.Errorf("%.40q gave %v", line, row)
		}
	}
}

func FuzzDecodeRow(f *testing.F) {
	for _, line := range []string{`{"a":[1,-1,1.5,"x",null,true,{"b":{}}]}`, `{"a":18446744073709551615,"a":2}`, `{`, `[1]`, `{"é":"\u0000"}`} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		row, err := decodeRow(line)
		if err == nil && (row == nil || !json.Valid(line)) {
			t.Errorf("%q gave %v", line, row)
		}
	})
}
