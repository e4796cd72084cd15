package endpoint_test

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

func TestParseBinaryTypes(t *testing.T) {
	data, err := hex.DecodeString("01" + "fffe" + "04030201" + "01020304" + "ffffffffffffffff" +
		"e58e26" + "7f" + "68656c6c6f00" + "68006900" + "0000" + "05")
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(t, map[string]any{"Data": string(data), "Profile": `[
	  # comments are allowed
	  ["Header", 0, [
	    ["U8", 0, "uint8"], ["I16", 1, "int16"], ["U32", 3, "uint32"], ["B32", 7, "uint32b"], ["I64", 11, "int64"],
	    ["Leb", 19, "leb128"], ["SLeb", 22, "sleb128"], ["S", 23, "String"], ["Wide", 29, "String", {"encoding": "utf16"}],
	    ["Next", "x=>x.U8 + 34", "uint8"],
	    ["Low", 35, "BitField", {"type": "uint8", "start_bit": 0, "end_bit": 2}],
	    ["Bits", 35, "Flags", {"type": "uint8", "bitmap": {"One": 0, "Two": 1, "Three": 2}}],
	    ["E", 35, "Enumeration", {"type": "uint8", "choices": {"5": "five"}}],
	    ["E2", 0, "Enumeration", {"type": "uint8", "map": {"none": 9}}],
	    ["V", 0, "Value", {"value": "x=>x.U8 * 10"}],
	    ["Past", 100, "uint32"],
	    ["__Hidden", 0, "uint8"],
	  ]]]`})
	s.want(`SELECT parse_binary(accessor='data', filename=Data, profile=Profile, struct='Header') AS H FROM scope()`,
		`{"H":{"U8":1,"I16":-257,"U32":16909060,"B32":16909060,"I64":-1,"Leb":624485,"SLeb":-1,"S":"hello","Wide":"hi","Next":5,`+
			`"Low":1,"Bits":["One","Three"],"E":"five","E2":1,"V":10,"Past":null}}`)
	s.want(`LET H <= parse_binary(accessor='data', filename=Data, profile=Profile, struct='Header')
	   SELECT H.U8 AS A, H.__Hidden AS B, H.`+"`@S`"+`.SizeOf AS C, H.`+"`@S`"+`.EndOf AS D, H.StartOf AS E, H.NoSuch AS F FROM scope()`,
		`{"A":1,"B":1,"C":6,"D":29,"E":0,"F":null}`)
	s.want(`SELECT parse_binary(accessor='data', filename=Data, struct='uint16', offset=1) AS A FROM scope()`, `{"A":65279}`)
}

func TestParseBinaryStructures(t *testing.T) {
	s := newSession(t, map[string]any{"Data": "\x03abcxyz\x02\x07\x00\x00\x00\x00\x00\x00\x00Q", "Profile": `[
	  ["Top", 0, [
	    ["Count", 0, "uint8"],
	    ["Items", 1, "Array", {"type": "Item", "count": "x=>x.Count", "max_count": 10}],
	    ["Stop", 1, "Array", {"type": "uint8", "count": 100, "sentinel": "x=>x > 99"}],
	    ["Sized", 1, "Array", {"type": "Var", "count": 2}],
	    ["Chosen", 4, "Union", {"selector": "x=>x.Count", "choices": {"3": "Item", "default": "uint8"}}],
	    ["Far", 8, "Pointer", {"type": "uint8"}],
	    ["Placed", 0, "Profile", {"type": "Item", "offset": "x=>x.Count"}],
	    ["FromEnv", 0, "Value", {"value": "x=>EnvVar + this.Count"}],
	    ["Self", 0, "Top"]
	  ]],
	  ["Item", 1, [["C", 0, "char"], ["Up", 0, "Value", {"value": "x=>x.ParentOf.Count"}]]],
	  ["Var", "x=>2", [["C", 0, "char"]]]
	]`})
	s.want(`LET T <= parse_binary(accessor='data', filename=Data, profile=Profile, struct='Top', env=dict(EnvVar=40))
	   SELECT T.Items AS A, T.Items[1].C AS B, T.Items.C AS C, T.Stop AS D, T.Sized.C AS E, T.Chosen.C AS F, T.Far AS G, T.Placed.C AS H,
	   T.FromEnv AS I, T.Self.Self.Count AS J, T.Items[0].SizeOf AS K, T.Items[2].EndOf AS L FROM scope()`,
		`{"A":[{"C":"a","Up":3},{"C":"b","Up":3},{"C":"c","Up":3}],"B":"b","C":["a","b","c"],"D":[97,98,99],"E":["a","c"],"F":"x","G":2,"H":"c",`+
			`"I":43,"J":3,"K":1,"L":4}`)
}

func TestParseBinaryTimes(t *testing.T) {
	var data []byte
	data = binary.LittleEndian.AppendUint64(data, 1_700_000_000)
	data = binary.LittleEndian.AppendUint64(data, 133444736000000000)
	data = binary.LittleEndian.AppendUint32(data, 0x5c8a<<16|0x576e)
	data = binary.LittleEndian.AppendUint64(data, 1_700_000_000_123)
	s := newSession(t, map[string]any{"Data": string(data), "Profile": `[["T", 0, [["Unix", 0, "Timestamp"], ["Win", 8, "WinFileTime"],
	  ["Fat", 16, "FatTimestamp"], ["Milli", 20, "Timestamp", {"factor": 1000}]]]]`})
	s.want(`SELECT parse_binary(accessor='data', filename=Data, profile=Profile, struct='T') AS T FROM scope()`,
		`{"T":{"Unix":"2023-11-14T22:13:20Z","Win":"2023-11-14T22:13:20Z","Fat":"2023-11-14T11:36:20Z","Milli":"2023-11-14T22:13:20.123Z"}}`)
}

func TestParseBinaryRefusesBadProfiles(t *testing.T) {
	for _, profile := range []string{
		"", "{", "{}", "[1]", `[["A"]]`, `[["A", 0, 1]]`, `[["A", "x", []]]`, `[["A", 0, [["F"]]]]`, `[["A", 0, [["F", 0, "nosuch"]]]]`,
		`[["A", 0, [["F", 0, "Array"]]]]`, `[["A", 0, [["F", "x=>(", "uint8"]]]]`, `[["A", 0, [["F", 0, "BitField", {"type": "uint8", "start_bit": 9, "end_bit": 3}]]]]`,
		`[["A", 0, []], ["A", 0, []]]`,
	} {
		s := newSession(t, map[string]any{"Profile": profile})
		s.want(`SELECT parse_binary(accessor='data', filename='x', profile=Profile, struct='A') AS A FROM scope()`, `{"A":null}`)
		s.wantLog("bad profile")
	}
}

func TestParseBinaryBearsEndlessProfiles(t *testing.T) {
	s := newSession(t, map[string]any{"Profile": `[["A", 0, [
	  ["Huge", 0, "Array", {"type": "uint8", "count": 9000000000, "max_count": 9000000000}],
	  ["Empty", 0, "Array", {"type": "Zero", "count": 9000000000, "max_count": 9000000000}],
	  ["Loop", "x=>x.Loop", "uint8"], ["Negative", -5, "uint32"], ["Long", 0, "String", {"length": 9000000000, "max_length": 9000000000}]]],
	  ["Zero", 0, []]]`, "Data": strings.Repeat("\x00", 100)})
	s.want(`LET A <= parse_binary(accessor='data', filename=Data, profile=Profile, struct='A')
	   SELECT A.Empty AS E, A.Negative AS N, len(list=A.Long) AS L FROM scope()`, `{"E":[],"N":null,"L":0}`)
	s.want(`SELECT A.Loop AS Loop FROM scope()`, `{"Loop":0}`)
	s.wantLog("lambdas nest deeper")
}

func FuzzBinaryProfile(f *testing.F) {
	f.Add(`[["A", 0, [["F", 0, "uint8"], ["S", "x=>x.F", "String"], ["R", 0, "Array", {"type": "A", "count": 3}]]]]`, "\x01\x02abc\x00")
	f.Add(`[["A", 4, [["U", 0, "Union", {"selector": "x=>1", "choices": {"1": "leb128"}}], ["P", 0, "Pointer", {"type": "A"}]]]]`, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	f.Fuzz(func(t *testing.T, profile, data string) {
		if strings.Contains(profile, "count") && len(profile) > 4096 || strings.Count(profile, "=>") > 8 {
			t.Skip("slow rather than wrong")
		}
		s := newSession(t, map[string]any{"Profile": profile, "Data": data})
		s.rows(`SELECT parse_binary(accessor='data', filename=Data, profile=Profile, struct='A') != NULL AS A FROM scope()`)
		if strings.Contains(s.log(), "PANIC") {
			t.Error(s.log())
		}
	})
}
