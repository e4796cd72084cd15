package client

import (
	"testing"
	"time"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

func TestRunHasCaughtUpWhenEachNameHasAndAsSoonAsItHas(t *testing.T) {
	m, b := testMonitor(t)
	ctx := t.Context()
	if err := b.note(ctx, flowEvent{Op: opAccept, Flow: "F.1"}); err != nil {
		t.Fatal(err)
	}
	row := vql.NewDict().Set("N", int64(1))
	rows := func(q *query, name string) *rowsOut {
		out := newRowsOut(q.output, &wirepb.VQLRequest{Name: name}, 0, q.args, q.known[name], prefix{})
		if err := out.add(ctx, row); err != nil {
			t.Fatal(err)
		}
		return out
	}
	run := func() *query {
		record, _ := b.flow("F.1")
		f, err := newFlow(m.runner, record)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.mayRun(ctx); err != nil {
			t.Fatal(err)
		}
		return f.start(ctx, 0, &wirepb.VQLCollectorArgs{})
	}
	caught := func() bool {
		record, _ := b.flow("F.1")
		return record.Caught
	}
	first := run()
	for _, name := range []string{"A", "B"} {
		if err := rows(first, name).flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	second := run()
	second.rows = rows(second, "A")
	if err := second.tick(ctx, time.Now()); err != nil || caught() {
		t.Fatal("caught up although B is still to come", err)
	}
	second.rows = rows(second, "B")
	if err := second.tick(ctx, time.Now()); err != nil || !caught() {
		t.Fatal("not caught up although all rows came again", err)
	}
}
