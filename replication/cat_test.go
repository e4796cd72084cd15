package replication_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"raptorpack/filestore/filestoretest"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
)

// line is what a script sees of one entry.
type line struct {
	Index, Epoch, Seq uint64
	Time, Kind        string
	Incarnation       string
	Stream            string
	RequestID         string `json:"request_id"`
	Body              json.RawMessage
	Bytes             []byte
	Blob              string
}

func cat(t *testing.T, r *rig, bodies map[string]proto.Message) (lines []line, err error) {
	t.Helper()
	var out bytes.Buffer
	err = replication.Cat(t.Context(), r.store, &out, bodies)
	for text := range bytes.Lines(out.Bytes()) {
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		lines = append(lines, l)
	}
	return lines, err
}

func TestCatPrintsEveryEntryAsALineOfJSON(t *testing.T) {
	disk := filestoretest.NewPowerCut(t, 1)
	a := newRig(t, disk, "a-1", nil).load().lead(1)
	body, err := proto.Marshal(&buspb.OriginsRetired{Incarnations: []string{"z-1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.node.Propose(t.Context(), &buspb.Mutation{Kind: "book", Body: body, RequestId: "r", Principal: "ann"}); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 300<<10)
	a.propose(large)
	_ = a.stop()
	b := newRig(t, disk, "a-2", nil).load().lead(2)

	plain, err := cat(t, b, nil)
	if err != nil || len(plain) != 4 {
		t.Fatalf("%d lines, %v; want 4", len(plain), err)
	}
	if got := plain[0]; got.Kind != "ledger.epoch" || string(got.Body) != `{"incarnation":"a-1"}` {
		t.Errorf("first entry: %+v", got)
	}
	if got := plain[1]; got.Index != 2 || got.Seq != 1 || got.Incarnation != "a-1" || got.RequestID != "r" || !bytes.Equal(got.Bytes, body) {
		t.Errorf("entry 2: %+v", got)
	}
	if got := plain[2]; got.Blob == "" || string(got.Bytes) != large {
		t.Errorf("entry 3 has no body from its blob")
	}
	if got := plain[3]; got.Epoch != 2 || string(got.Body) != `{"incarnation":"a-2","sealedEpoch":"1"}` {
		t.Errorf("entry 4: %+v", got)
	}
	known, err := cat(t, b, map[string]proto.Message{"book": &buspb.OriginsRetired{}})
	if err != nil || string(known[1].Body) != `{"incarnations":["z-1"]}` || known[1].Bytes != nil {
		t.Errorf("with its message: %+v, %v", known[1], err)
	}
}

func TestVerifyFindsEachBreak(t *testing.T) {
	build := func(t *testing.T) (*filestoretest.PowerCut, string) {
		disk := filestoretest.NewPowerCut(t, 1)
		for epoch := uint64(1); epoch <= 3; epoch++ {
			r := newRig(t, disk, fmt.Sprint("a-", epoch), nil).load().lead(epoch)
			for i := range 5 {
				r.propose(fmt.Sprint(epoch, " ", i))
			}
			r.close()
		}
		return disk, "ledger/" + mustFind(t, disk, "ledger")[1].Name() + "/"
	}
	for name, c := range map[string]struct {
		harm func(t *testing.T, disk *filestoretest.PowerCut, second string)
		want error
	}{
		"nothing": {func(*testing.T, *filestoretest.PowerCut, string) {}, nil},
		"a bad byte": {func(t *testing.T, d *filestoretest.PowerCut, dir string) {
			damage(t, d, dir+mustFind(t, d, dir[:len(dir)-1])[0].Name(), 300)
		}, replication.ErrDamaged},
		"a cut file": {func(t *testing.T, d *filestoretest.PowerCut, dir string) {
			truncate(t, d, dir+mustFind(t, d, dir[:len(dir)-1])[0].Name(), 300)
		}, replication.ErrDamaged},
		"an epoch gone": {func(t *testing.T, d *filestoretest.PowerCut, dir string) {
			remove(t, d, dir+mustFind(t, d, dir[:len(dir)-1])[0].Name())
		}, replication.ErrDamaged},
		"a seal gone": {func(t *testing.T, d *filestoretest.PowerCut, _ string) { remove(t, d, "lease/seal-2") }, replication.ErrDamaged},
		"a bad seal": {func(t *testing.T, d *filestoretest.PowerCut, _ string) {
			rewrite(t, d, "lease/seal-2", `"last_index":12`, `"last_index":11`)
		}, replication.ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			disk, second := build(t)
			c.harm(t, disk, second)
			r := newRig(t, disk, "v-1", nil)
			report, err := replication.Verify(t.Context(), r.store)
			if c.want == nil {
				if err != nil || report.LastIndex != 18 || report.Epochs != 3 || report.Seals != 2 {
					t.Errorf("%+v, %v", report, err)
				}
				return
			}
			wantErr(t, err, c.want)
			if report.LastIndex < 6 {
				t.Errorf("stopped at entry %d, before the break", report.LastIndex)
			}
			wantErr(t, r.node.Load(t.Context()), c.want)
		})
	}
}

func remove(t testing.TB, disk *filestoretest.PowerCut, name string) {
	t.Helper()
	if err := disk.Remove(name); err != nil {
		t.Fatal(err)
	}
}

// rewrite replaces a piece of a small file by one of equal length.
func rewrite(t testing.TB, disk *filestoretest.PowerCut, name, old, fresh string) {
	t.Helper()
	f, err := disk.OpenWrite(path.Clean(name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, size(t, disk, name))
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(data, []byte(old), []byte(fresh), 1)
	if bytes.Equal(changed, data) || len(changed) != len(data) {
		t.Fatalf("%s does not hold %s: %s", name, old, data)
	}
	if _, err := f.WriteAt(changed, 0); err != nil {
		t.Fatal(err)
	}
}
