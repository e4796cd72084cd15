package flows_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// copyOf is a copy of a collection that ended with two rows.
func copyOf(hunt ids.Hunt) flows.Copy {
	key := flows.Key{Client: ids.ClientOfNumber(1), Flow: ids.NewFlow(time.Now())}
	from := &flows.Flow{Key: key, State: flows.Completed, Spec: &flows.Spec{Flow: key.Flow}}
	from.Names = []flows.Coverage{{Name: "A"}}
	from.Names[0].Rows.Add(0, 2)
	key.Flow = hunt.NewCopy(time.Now())
	return flows.Copy{Key: key, Hunt: hunt, From: from, Incarnation: "n1-1", Names: from.Names}
}

func TestCopyIsPlannedOnlyOfWhatMayBeOne(t *testing.T) {
	hunt := ids.NewHunt(time.Now())
	if _, err := flows.PlanCopy(copyOf(hunt), "ada"); err != nil {
		t.Fatal(err)
	}
	for why, c := range map[string]struct {
		change func(*flows.Copy)
		want   error
	}{
		"with 0 results":  {func(c *flows.Copy) { c.Names = nil }, flows.ErrInvalid},
		"as flow":         {func(c *flows.Copy) { c.Flow = hunt.Flow(1) }, flows.ErrInvalid},
		`as flow "F.`:     {func(c *flows.Copy) { c.Client = ids.ClientOfNumber(2) }, flows.ErrInvalid},
		"is running":      {func(c *flows.Copy) { c.From.State = flows.Running }, flows.ErrUnfinished},
		"is of hunt":      {func(c *flows.Copy) { c.From.Spec.Hunt = ids.NewHunt(time.Now()) }, flows.ErrInvalid},
		"is no colle":     {func(c *flows.Copy) { c.From.Flow = ids.Monitoring }, flows.ErrInvalid},
		"as flow \"\" wi": {func(c *flows.Copy) { c.Flow = ids.Flow{} }, flows.ErrInvalid},
	} {
		one := copyOf(hunt)
		c.change(&one)
		if _, err := flows.PlanCopy(one, "ada"); !errors.Is(err, c.want) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", why, err)
		}
	}
}

// What a node proposes is checked again: an entry that names nonsense changes nothing.
func TestCopyThatMakesNoSenseIsRefused(t *testing.T) {
	hunt := ids.NewHunt(time.Now())
	for what, change := range map[string]func(*buspb.FlowImport){
		"no hunt to ask":      func(*buspb.FlowImport) {},
		"a hunt that is none": func(in *buspb.FlowImport) { in.Spec.Hunt = "x" },
		"another flow":        func(in *buspb.FlowImport) { in.Spec.Flow = "F.X" },
		"a request":           func(in *buspb.FlowImport) { in.Spec.Request = []byte{1} },
		"no origin":           func(in *buspb.FlowImport) { in.Origin = nil },
	} {
		m, err := flows.PlanCopy(copyOf(hunt), "ada")
		if err != nil {
			t.Fatal(err)
		}
		var body buspb.FlowsBody
		if err := proto.Unmarshal(m.Body, &body); err != nil {
			t.Fatal(err)
		}
		change(body.Changes[0].GetImport())
		if m.Body, err = proto.Marshal(&body); err != nil {
			t.Fatal(err)
		}
		room := flows.New(flows.Options{})
		if err := room.Apply(&buspb.Entry{Index: 1, Time: time.Now().UnixMicro(), Mutation: m}); err == nil {
			t.Errorf("%s: applied", what)
		}
	}
}

func TestStoredRowsAreSplicedForAHunt(t *testing.T) {
	client, flow := ids.ClientOfNumber(1), ids.NewFlow(time.Now())
	got, err := flows.SplicedLines([]byte("{\"a\":1}\n{\"ClientId\":\"C.2\"}\n{}\n"), client, flow)
	head := `{"ClientId":"` + client.String() + `","FlowId":"` + flow.String() + `"`
	want := head + ",\"a\":1}\n" + head + ",\"client_ClientId\":\"C.2\"}\n" + head + "}\n"
	if err != nil || len(got) != 1 || got[0].Rows != 3 || string(got[0].Text) != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"[]\n", "{\"a\":", "{} {}\n"} {
		if _, err := flows.SplicedLines([]byte(bad), client, flow); !errors.Is(err, flows.ErrBadLine) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
