package api_test

import (
	"strings"
	"testing"

	"raptorpack/api"
)

// A collection is added once for a request, its rows stand among the hunt's, and what
// cannot be added is refused with the reason.
func TestACollectionIsAddedToAHunt(t *testing.T) {
	w := newWorld(t)
	path := w.hunt(func(*api.HuntRequest) {})
	key := w.collect("Linux.Sys.Users", nil)
	flow := key.Flow.String()
	add := func(flow string) map[string]any {
		return map[string]any{"clients": []string{w.client.String()}, "flow_id": flow}
	}
	to := path + "/clients"
	refused := func(status int, who string, body any, text string) {
		t.Helper()
		if r := w.want(status, who, "POST", to, body); !strings.Contains(string(r.body), text) {
			t.Errorf("%s", r.body)
		}
	}
	refused(409, "investigator", add(flow), "has not ended")
	w.arrive(rowsOf(key, "Linux.Sys.Users", 0, `{"User":"root"}`, `{"User":"ada"}`))
	w.arrive(uploadOf(key, 1, "hello")...)
	w.arrive(endOf(key, 2, 1))
	refused(403, "reader", add(flow), "START_HUNT")
	refused(404, "investigator", add("F.AAAAAAAAAAAAA"), "no such flow")
	refused(422, "investigator", add("nonsense"), "flow id")
	refused(422, "investigator", map[string]any{"clients": []string{w.client.String()}, "again": true}, "expected a flow and its client")
	refused(422, "investigator", map[string]any{"flow_id": flow}, "expected a flow and its client")
	var first, second api.Done
	w.want(200, "investigator", "POST", to, add(flow), "Idempotency-Key", "k").into(t, &first)
	w.want(200, "investigator", "POST", to, add(flow), "Idempotency-Key", "k").into(t, &second)
	if first != second || first.Index == 0 {
		t.Errorf("%+v, then %+v", first, second)
	}
	refused(409, "investigator", add(flow), "has the client already: completed")
	h := w.showHunt(path)
	if h.Clients["completed"] != 1 || h.Clients["with_results"] != 1 || h.Rows != 2 || h.Uploads != 1 || h.Flows != 1 {
		t.Errorf("%+v", h)
	}
	rows := w.usersIn(path)
	if len(rows) != 2 || strings.Count(strings.Join(rows, ""), `"FlowId":"`+flow+`"`) != 2 {
		t.Errorf("rows %s", rows)
	}
}
