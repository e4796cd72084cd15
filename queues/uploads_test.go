package queues_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/queues"
)

// finished tells of a flow that ended with uploads.
func (w *world) finished(n *node, index uint64) flows.Key {
	w.t.Helper()
	flow := ids.NewFlow(time.Now())
	f := &flows.Flow{Key: flows.Key{Client: w.client, Flow: flow}}
	f.Uploads.Add(0, 1)
	n.queues.FlowsFinished(index, time.Unix(1_790_000_000, 0), []*flows.Flow{f})
	return f.Key
}

func TestUploadsAreToldOfWithTheEndOfTheirFlow(t *testing.T) {
	w := newWorld(t)
	a := w.node("a-1")
	key, gone := w.finished(a, 100), w.finished(a, 101)
	long := strings.Repeat("x", 10_000)
	a.uploaded = map[flows.Key][]flows.Upload{key: {{StoredPath: "clients/x", Source: `/etc/"p`, Accessor: "auto", Size: 9, StoredSize: 5, SHA256: "ab"}}}
	for range 60 { // more than one batch holds
		a.uploaded[key] = append(a.uploaded[key], flows.Upload{Source: long})
	}
	a.broken.Store(2)
	a.leads()
	rows := a.rows(queues.UploadCompletion)
	if len(rows) != 61 {
		t.Fatalf("%d rows", len(rows))
	}
	want := fmt.Sprintf(`{"ClientId":%q,"_ts":1790000000,"Timestamp":1790000000,"FlowId":%q,"VFSPath":"clients/x","UploadName":"/etc/\"p","Accessor":"auto","Size":9,"UploadedSize":5,"sha256":"ab"}`, w.client, key.Flow)
	if rows[0] != want {
		t.Errorf("row %s\nwant %s", rows[0], want)
	}
	if got := a.rows(queues.FlowCompletion); len(got) != 2 || !strings.Contains(got[1], gone.Flow.String()) {
		t.Errorf("ends %v", got)
	}
}

// A list that does not read holds up nobody.
func TestUploadsThatCannotBeListedArePassedOver(t *testing.T) {
	w := newWorld(t)
	a := w.node("a-1")
	key := w.finished(a, 100)
	a.uploaded = map[flows.Key][]flows.Upload{key: {{Source: "x"}}}
	a.broken.Store(1000)
	a.leads()
	if up, ends := a.rows(queues.UploadCompletion), a.rows(queues.FlowCompletion); len(up) != 0 || len(ends) != 1 {
		t.Errorf("uploads %v, ends %v", up, ends)
	}
}
