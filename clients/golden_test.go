package clients_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"raptorpack/clients"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
	"raptorpack/replication/statetest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// story is all that can happen to clients, with texts that JSON writes in its own
// way, and what is refused.
func story() (entries []*buspb.Entry) {
	apply := func(org string, changes ...*buspb.ClientChange) {
		m, err := clients.Mutation(ids.RootOrg, changes...)
		if err != nil {
			panic(err)
		}
		m.Org = org
		n := int64(len(entries) + 1)
		entries = append(entries, &buspb.Entry{Index: uint64(n), Epoch: 1, Time: 1_790_000_000_000_000 + n*1_000_001, Mutation: m})
	}
	var who []string
	for i := range 6 {
		key, id := madeUpKey(uint64(i))
		if i == 4 { // a small key, as no agent has
			key = []byte{0x30, 0x0d, 0x02, 0x08, 0x71, 2, 3, 4, 5, 6, 7, 9, 0x02, 0x01, 0x03}
			id = idOfDER(key)
		}
		who = append(who, id.String())
		apply([]string{"", "", "", "O12", "", "O9"}[i], &buspb.ClientChange{Change: &buspb.ClientChange_Enrol{Enrol: &buspb.ClientEnrol{Client: id.String(), PublicKey: key}}})
	}
	inform := func(i int, info *buspb.ClientInfo) {
		info.Client = who[i]
		apply("", &buspb.ClientChange{Change: &buspb.ClientChange_Info{Info: info}})
	}
	inform(0, &buspb.ClientInfo{
		Hostname: "web-1", Fqdn: "web-1.example", System: "linux", Release: "debian 12", Architecture: "amd64", ClientVersion: "0.77.2",
		ClientName: "velociraptor", BuildTime: "2026-01-01", BuildUrl: "https://x/?a=1&b=<2>", InstallTime: 1_700_000_000,
		MacAddresses: []string{"ac:de:48:00:11:22", "00:16:3e:00:00:01", "AC-DE", "ac:de:48:00:11:22"}, Users: []string{"root", "ada \"the\" first", "été"},
		Labels: []string{"lab", "Prod"},
	})
	inform(1, &buspb.ClientInfo{Hostname: "MÜNCHEN\t1", Fqdn: "münchen\t1.corp", System: "windows", Users: []string{"a\\b", "\u2028"}})
	inform(2, &buspb.ClientInfo{Hostname: "same", Fqdn: "same", InstallTime: -5, Labels: []string{"<&>", "lab"}})
	inform(4, &buspb.ClientInfo{Hostname: "Small", Fqdn: "small.corp"})
	label := func(org string, who, add, remove []string) {
		apply(org, &buspb.ClientChange{Change: &buspb.ClientChange_Label{Label: &buspb.ClientLabel{Clients: who, Add: add, Remove: remove}}})
	}
	label("", who[:3], []string{"alpha", "LAB", "zeta"}, nil)
	label("", who[:2], []string{"Émile"}, []string{"ALPHA"})
	label("O12", who[3:4], []string{"only"}, nil)
	label("O12", who[3:4], nil, []string{"only"})
	for _, flow := range []string{"F.D4K8M2O9P1Q3R", "F.D4K8M2O9P1Q3S"} {
		apply("", &buspb.ClientChange{Change: &buspb.ClientChange_Interrogated{Interrogated: &buspb.ClientInterrogated{Client: who[0], Flow: flow}}})
	}
	inform(0, &buspb.ClientInfo{Release: "debian 13", Interrogation: "F.D4K8M2O9P1Q3R"})
	apply("", &buspb.ClientChange{Change: &buspb.ClientChange_Metadata{Metadata: &buspb.ClientMetadata{
		Client: who[1], Set: map[string]string{"owner": "ops", "b": "<x>", "a": ""}, Remove: []string{"c"},
	}}})
	apply("", &buspb.ClientChange{Change: &buspb.ClientChange_Metadata{Metadata: &buspb.ClientMetadata{
		Client: who[1], Set: map[string]string{"c": "new"}, Remove: []string{"b"},
	}}})
	apply("", &buspb.ClientChange{Change: &buspb.ClientChange_Delete{Delete: &buspb.ClientDelete{Client: who[2]}}})
	apply("O9", &buspb.ClientChange{Change: &buspb.ClientChange_Delete{Delete: &buspb.ClientDelete{Client: who[5]}}})

	// What follows is refused.
	apply("", &buspb.ClientChange{})
	apply("../x", &buspb.ClientChange{})
	label("", []string{"C.0123456789abcdef"}, []string{"x"}, nil)
	label("", []string{"server"}, []string{"x"}, nil)
	label("", []string{"C.12"}, []string{"x"}, nil)
	key, _ := madeUpKey(99)
	apply("", &buspb.ClientChange{Change: &buspb.ClientChange_Enrol{Enrol: &buspb.ClientEnrol{Client: who[0], PublicKey: key}}})
	apply("", &buspb.ClientChange{Change: &buspb.ClientChange_Enrol{Enrol: &buspb.ClientEnrol{Client: who[2], PublicKey: key}}})
	apply("", &buspb.ClientChange{Change: &buspb.ClientChange_Enrol{Enrol: &buspb.ClientEnrol{Client: "server", PublicKey: key}}})
	apply("", &buspb.ClientChange{Change: &buspb.ClientChange_Delete{Delete: &buspb.ClientDelete{Client: who[2]}}})
	apply("", &buspb.ClientChange{Change: &buspb.ClientChange_Interrogated{Interrogated: &buspb.ClientInterrogated{Client: who[0], Flow: "x"}}})

	for _, change := range []*buspb.ClientMetadata{
		{Set: map[string]string{"url": "https://x/?a=1&b=<2>", "a": "", "gone": "x"}}, {Set: map[string]string{"b": "2"}, Remove: []string{"gone"}},
	} {
		change.Client = "server"
		apply("", &buspb.ClientChange{Change: &buspb.ClientChange_Metadata{Metadata: change}})
	}
	apply("O7", &buspb.ClientChange{Change: &buspb.ClientChange_Metadata{Metadata: &buspb.ClientMetadata{Client: "server", Set: map[string]string{"only": "here"}}}})
	apply("O8", &buspb.ClientChange{Change: &buspb.ClientChange_Metadata{Metadata: &buspb.ClientMetadata{Client: "server", Set: map[string]string{"for": "a moment"}}}})
	apply("O8", &buspb.ClientChange{Change: &buspb.ClientChange_Metadata{Metadata: &buspb.ClientMetadata{Client: "server", Remove: []string{"for"}}}})
	return entries
}

// The snapshot's lines and the refusals are the same as ever.
func TestSnapshotIsAsItEverWas(t *testing.T) {
	room := clients.New(nil)
	var got bytes.Buffer
	for _, e := range story() {
		if err := room.Apply(e); err != nil {
			fmt.Fprintf(&got, "# %d %s\n", e.Index, strings.ReplaceAll(err.Error(), "\n", " / "))
		}
	}
	if _, err := room.View().WriteTo(&got); err != nil {
		t.Fatal(err)
	}
	golden(t, "clients.jsonl", got.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

func TestStateKeepsItsPromises(t *testing.T) {
	statetest.Run(t, func() replication.State { return clients.New(nil) }, story())
}
