package filestore_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"raptorpack/filestore"
)

var someHeartbeat = filestore.Heartbeat{
	Counter: 42, Run: strings.Repeat("0f", 16), Node: "frontend-1.example", Host: "host-1", Boot: "8a5b9a9e-1f5e-4a36-9d9f-0f9d3f7b6a11",
	PIDNS: 4026531836, PID: 1234, PIDStart: 5678, Started: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), TTL: 4 * time.Second, Released: true,
}

func TestHeartbeatReadsBack(t *testing.T) {
	record, err := someHeartbeat.Encode()
	check(t, err)
	if len(record) != 512 || record[511] != '\n' {
		t.Errorf("%d bytes, want 512 that end a line", len(record))
	}
	const want = `RPHB1 a968a65d {"counter":42,"state":"released","node":"frontend-1.example","host":"host-1","pid":1234,"started":1772366400000000,` +
		`"ttl_ms":4000,"run":"0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","boot":"8a5b9a9e-1f5e-4a36-9d9f-0f9d3f7b6a11","pidns":4026531836,"pid_start":5678}`
	if got := strings.TrimRight(string(record), " \n"); got != want {
		t.Errorf("format on disk changed:\n got %s\nwant %s", got, want)
	}
	got, err := filestore.DecodeHeartbeat(record)
	check(t, err)
	if diff := cmp.Diff(someHeartbeat, got); diff != "" {
		t.Error(diff)
	}
}

func TestLongestHeartbeatFits(t *testing.T) {
	h := someHeartbeat
	h.Counter, h.PIDNS, h.PIDStart, h.PID = 1<<64-1, 1<<64-1, 1<<64-1, 1<<22
	h.Node, h.Host, h.TTL = strings.Repeat("n", 64), strings.Repeat("h", 64), 24*time.Hour
	_, err := h.Encode()
	check(t, err)
}

func TestDamagedHeartbeatIsNoHeartbeat(t *testing.T) {
	record, err := someHeartbeat.Encode()
	check(t, err)
	for i := range record {
		for bit := range 8 {
			broken := bytes.Clone(record)
			broken[i] ^= 1 << bit
			_, err := filestore.DecodeHeartbeat(broken)
			wantErr(t, err, filestore.ErrBadRecord)
		}
	}
	for _, n := range []int{0, 1, 511} {
		_, err := filestore.DecodeHeartbeat(record[:n])
		wantErr(t, err, filestore.ErrBadRecord)
	}
}

func FuzzDecodeHeartbeat(f *testing.F) {
	record, err := someHeartbeat.Encode()
	check(f, err)
	f.Add(record)
	f.Add(bytes.Repeat([]byte{' '}, 512))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := filestore.DecodeHeartbeat(data)
		if err != nil {
			wantErr(t, err, filestore.ErrBadRecord)
			return
		}
		if h.TTL < 0 {
			t.Errorf("negative TTL %v", h.TTL)
		}
	})
}
