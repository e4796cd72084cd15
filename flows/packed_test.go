package flows

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
)

// TestPackedRecordIsTheRecord packs records of all kinds and reads them back.
func TestPackedRecordIsTheRecord(t *testing.T) {
	spec := &Spec{Names: []Name{{"a1", "Generic.Client.Info/Users"}, {"b2", "Generic.Client.Info"}}}
	client, err := ids.ParseClient("C.00000000000000aa")
	if err != nil {
		t.Fatal(err)
	}
	key := Key{ids.RootOrg, client, ids.NewFlow(time.Unix(1_790_000_000, 0))}
	var m marks
	seen := map[string]bool{}
	for seed := range uint64(2000) {
		want := anyFlow(rand.New(rand.NewPCG(seed, 1)), key, spec)
		packed := m.pack(want)
		if got := m.unpack(packed, key, spec); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d:\n got %+v\nwant %+v", seed, got, want)
		}
		if packedState(packed) != want.State || packedIndex(packed) != want.Index {
			t.Fatalf("seed %d: peeked at %s %d, want %s %d", seed, packedState(packed), packedIndex(packed), want.State, want.Index)
		}
		for i := range reflect.TypeFor[Flow]().NumField() {
			if v := reflect.ValueOf(*want).Field(i); !v.IsZero() {
				seen[reflect.TypeFor[Flow]().Field(i).Name] = true
			}
		}
	}
	for i := range reflect.TypeFor[Flow]().NumField() { // a new field has to be packed, too
		if name := reflect.TypeFor[Flow]().Field(i).Name; !seen[name] {
			t.Errorf("no record of this test has a %s", name)
		}
	}
}

// anyFlow makes up a record that rests.
func anyFlow(r *rand.Rand, key Key, spec *Spec) *Flow {
	number := func() int64 { return r.Int64N(1 << r.IntN(62)) }
	at := func() time.Time {
		if r.IntN(3) == 0 {
			return time.Time{}
		}
		return micros.Time(1_790_000_000_000_000 + number() - number())
	}
	text := func(what string) string {
		if r.IntN(2) == 0 {
			return ""
		}
		return fmt.Sprintf("%s %d", what, r.IntN(10))
	}
	f := &Flow{
		Key: key, Spec: spec, Index: uint64(number()), State: resting[r.IntN(len(resting))], Error: text("bad"),
		Outcome: buspb.FlowEnd_Outcome(r.IntN(5)), CancelledBy: text("ann"), CancelDue: r.IntN(2) == 0,
		Cleared: uint64(r.IntN(3)), ClearedBy: text("node"), Offered: text("n1"), Offers: r.IntN(3), Reopened: r.IntN(2) == 0,
		Created: at(), Taken: at(), Ended: at(), WaitingSince: at(), CancelledAt: at(), FirstActive: at(),
		Duration: time.Duration(number()), Totals: Totals{number(), number(), number(), number(), number()},
	}
	f.Turn = f.Index + uint64(r.IntN(300))
	if f.CPU.Told = r.IntN(2) == 0; f.CPU.Told {
		f.CPU.Used = time.Duration(number())
	}
	ranges := func() (s filestore.Intervals) {
		for range r.IntN(4) {
			from := number()
			s.Add(from, from+1+r.Int64N(100))
		}
		return s
	}
	for i := range r.IntN(4) {
		f.Names = append(f.Names, Coverage{[]string{"Generic.Client.Info", "Generic.Client.Info/Users", "Other", "\x00\xff"}[i], ranges()})
	}
	f.Uploads = ranges()
	for i := range r.IntN(3) {
		f.Sizes = append(f.Sizes, UploadSize{int64(i) + number()%5, number()})
	}
	for range r.IntN(3) {
		f.Parts = append(f.Parts, Part{fmt.Sprintf("n%d-20261122", r.IntN(2*maxMarks)), number(), number()})
	}
	return f
}
