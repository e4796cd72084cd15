package cluster

import (
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"

	"raptorpack/ids"
)

// testTable is that of incarnation self-5.
func testTable(t *testing.T) *table {
	t.Helper()
	node, err := ids.ParseNode("self")
	if err != nil {
		t.Fatal(err)
	}
	table := newTable(&settings{Options: Options{Node: node, Incarnation: "self-5"}, number: 5})
	table.metrics = newMetrics(nil, func() int { return 0 })
	return table
}

func peer(name, metadata string) *memberlist.Node {
	return &memberlist.Node{Name: name, Addr: net.IPv4(10, 0, 0, 1), Port: 7946, Meta: []byte(metadata)}
}

func shown(t *table) string {
	var names []string
	for _, m := range t.members() {
		names = append(names, m.Incarnation)
	}
	return strings.Join(names, " ")
}

func TestOnlyTheNewestRunOfANodeIsShown(t *testing.T) {
	table := testTable(t)
	for _, step := range []struct {
		what func(*memberlist.Node)
		name string
		want string
	}{
		{table.NotifyJoin, "self-5", ""},
		{table.NotifyJoin, "self-4", ""}, // an older run of this node
		{table.NotifyJoin, "b-9", "b-9"},
		{table.NotifyJoin, "b-10", "b-10"},
		{table.NotifyJoin, "b-8", "b-10"},  // old news, come late
		{table.NotifyLeave, "b-10", ""},    // the older ones are over all the same
		{table.NotifyJoin, "b-10", "b-10"}, // it was only slow
		{table.NotifyLeave, "b-9", "b-10"},
		{table.NotifyLeave, "b-8", "b-10"},
		{table.NotifyLeave, "b-10", ""},
		{table.NotifyJoin, "b-3", "b-3"}, // nothing is remembered for ever: a new filestore counts anew
		{table.NotifyJoin, "b-x-1", "b-3 b-x-1"},
		{table.NotifyLeave, "nobody-1", "b-3 b-x-1"},
		{table.NotifyJoin, "self-6", "b-3 b-x-1 self-6"}, // it runs elsewhere meanwhile: to be seen
		{table.NotifyLeave, "self-6", "b-3 b-x-1"},
		{table.NotifyLeave, "self-4", "b-3 b-x-1"},
	} {
		step.what(peer(step.name, `{"v":1}`))
		if got := shown(table); got != step.want {
			t.Fatalf("after %s: %q, want %q", step.name, got, step.want)
		}
	}
}

func TestChangedRingsForChangesOnly(t *testing.T) {
	table := testTable(t)
	rang := func() bool {
		select {
		case <-table.changed:
			return true
		default:
			return false
		}
	}
	for i, step := range []struct {
		what func(*memberlist.Node)
		node *memberlist.Node
		want bool
	}{
		{table.NotifyJoin, peer("b-1", `{"v":1}`), true},
		{table.NotifyUpdate, peer("b-1", `{"v":1}`), false},
		{table.NotifyUpdate, peer("b-1", `{"v":1,"clients":3}`), true},
		{table.NotifyJoin, peer("c-1", `{"v":2}`), false}, // refused
		{table.NotifyUpdate, peer("b-1", `?`), true},      // and no longer shown
		{table.NotifyUpdate, peer("b-1", `{"v":1,"clients":3}`), true},
		{table.NotifyJoin, peer("self-5", `{"v":1}`), false},
		{table.NotifyLeave, peer("c-1", ``), false},
		{table.NotifyLeave, peer("b-1", ``), true},
		{table.NotifyLeave, peer("b-1", ``), false},
	} {
		step.what(step.node)
		if got := rang(); got != step.want {
			t.Errorf("step %d: rang %v, want %v", i, got, step.want)
		}
	}
}

func TestClosedTableStaysEmpty(t *testing.T) {
	table := testTable(t)
	table.NotifyJoin(peer("b-1", `{"v":1}`))
	table.close()
	table.NotifyJoin(peer("c-1", `{"v":1}`))
	table.NotifyLeave(peer("b-1", ``))
	if got := shown(table); got != "" {
		t.Errorf("shows %q", got)
	}
}
