package cluster

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"

	"raptorpack/ids"
)

var update = flag.Bool("update", false, "write golden files")

func TestMetaIsWhatTheGoldenFileSays(t *testing.T) {
	var got bytes.Buffer
	all := []meta{
		{Format: metaFormat},
		{Format: metaFormat, BusPort: 8002, Candidate: true, Version: "1.2.3-rc.1", Clients: 31415},
	}
	for _, m := range all {
		text, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeMeta(text)
		if err != nil || back != m {
			t.Errorf("%s read back as %+v: %v", text, back, err)
		}
		got.Write(append(text, '\n'))
	}
	golden := filepath.Join("testdata", "meta.jsonl")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("meta is\n%swant\n%s", got.Bytes(), want)
	}
}

func TestMetaOfLaterVersionsIsRead(t *testing.T) {
	got, err := decodeMeta([]byte(`{"v":1,"bus":8002,"zone":"eu","load":{"cpu":0.5},"clients":3}`))
	if err != nil || got != (meta{Format: 1, BusPort: 8002, Clients: 3}) {
		t.Errorf("read %+v, %v", got, err)
	}
}

func TestMetaThatMakesNoSenseIsRefused(t *testing.T) {
	for _, text := range []string{
		``, `{}`, `null`, `[]`, `{"v":2}`, `{"v":1}{"v":1}`, `{"v":1,"bus":65536}`, `{"v":1,"bus":-1}`,
		`{"v":1,"clients":-1}`, `{"v":1,"clients":99999999999}`, `{"v":1,"clients":1e300}`, `{"v":"1"}`, "\xff\xfe",
		`{"v":1,"version":"` + strings.Repeat("x", memberlist.MetaMaxSize) + `"}`,
	} {
		if got, err := decodeMeta([]byte(text)); !errors.Is(err, errMeta) {
			t.Errorf("%.40q was read as %+v, %v", text, got, err)
		}
	}
}

func TestIncarnationNamesItsNode(t *testing.T) {
	for text, want := range map[string]struct {
		node   string
		number uint64
	}{
		"a-1": {"a", 1}, "web-2-17": {"web-2", 17}, "n.example-18446744073709551615": {"n.example", 1<<64 - 1},
		"": {}, "a": {}, "a-": {}, "-1": {}, "a-01": {}, "a--1": {"a-", 1}, "a-+1": {}, "A-1": {}, "a-18446744073709551616": {}, "a/b-1": {}, "a-1\n": {},
	} {
		node, number, err := parseIncarnation(text)
		if node.String() != want.node || number != want.number || (err == nil) != (want.node != "") {
			t.Errorf("%q is node %q, %d, %v", text, node, number, err)
		}
	}
}

func TestMetaOfAnyOptionsFits(t *testing.T) {
	node, err := ids.ParseNode(strings.Repeat("n", 64))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Node: node, Incarnation: node.String() + "-1", BindAddress: "127.0.0.1", Key: make([]byte, keyBytes), BusPort: 65535, Candidate: true}
	for _, version := range []string{strings.Repeat("v", 600), strings.Repeat("\x00", 120)} {
		o.Version = version
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), "version is too long") {
			t.Errorf("a version of %d bytes: %v", len(version), err)
		}
	}
	o.Version = strings.Repeat("v", 250)
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c.load.Store(maxClients)
	if text := (self{c}).NodeMeta(memberlist.MetaMaxSize); len(text) == 0 || len(text) > memberlist.MetaMaxSize {
		t.Errorf("meta has %d bytes", len(text))
	}
}

// FuzzNode feeds the table what a node with the key may claim to be.
func FuzzNode(f *testing.F) {
	f.Add("a-1", []byte{127, 0, 0, 1}, uint16(7946), []byte(`{"v":1,"bus":8002,"candidate":true,"version":"1","clients":5}`))
	f.Add("b", []byte{}, uint16(0), []byte(`{"v":2}`))
	f.Add("self-7", make([]byte, 16), uint16(1), []byte("\xff"))
	f.Fuzz(func(t *testing.T, name string, address []byte, port uint16, data []byte) {
		table := testTable(t)
		n := &memberlist.Node{Name: name, Addr: address, Port: port, Meta: data}
		table.NotifyJoin(n)
		table.NotifyUpdate(n)
		if m, err := decodeMeta(data); err == nil {
			if again, err := m.encode(); err == nil {
				if back, err := decodeMeta(again); err != nil || back != m {
					t.Errorf("%+v read back as %+v: %v", m, back, err)
				}
			}
		}
		for _, m := range table.members() {
			if m.Incarnation != name || m.Node == "" {
				t.Errorf("%q is shown as %+v", name, m)
			}
		}
		table.NotifyLeave(n)
		if left := table.members(); len(left) != 0 || len(table.nodes) != 0 || len(table.newest) != 1 {
			t.Errorf("%q leaves %v, %v, %v behind", name, left, table.nodes, table.newest)
		}
	})
}
