package filestore_test

import (
	"bytes"
	"fmt"
	"hash/crc32"
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

func TestHeartbeatOfALaterLifeReadsBack(t *testing.T) {
	h := someHeartbeat
	h.Released, h.Life, h.Gossip = false, 3, "[2001:db8::1]:7946"
	record, err := h.Encode()
	check(t, err)
	const want = `RPHB1 82eebc06 {"counter":42,"state":"live","node":"frontend-1.example","host":"host-1","pid":1234,"started":1772366400000000,` +
		`"ttl_ms":4000,"run":"0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","boot":"8a5b9a9e-1f5e-4a36-9d9f-0f9d3f7b6a11","pidns":4026531836,"pid_start":5678,` +
		`"life":3,"gossip":"[2001:db8::1]:7946"}`
	if got := strings.TrimRight(string(record), " \n"); got != want {
		t.Errorf("format on disk changed:\n got %s\nwant %s", got, want)
	}
	got, err := filestore.DecodeHeartbeat(record)
	check(t, err)
	if diff := cmp.Diff(h, got); diff != "" {
		t.Error(diff)
	}
}

// With every field as long as it can be, nothing but the host is cut.
func TestLongestHeartbeatFits(t *testing.T) {
	h := someHeartbeat
	h.Counter, h.PIDNS, h.PIDStart, h.PID, h.Life = 1<<64-1, 1<<64-1, 1<<64-1, 1<<22, 1<<64-1
	h.Node, h.Host, h.Boot, h.TTL = strings.Repeat("n", 64), strings.Repeat("h", 64), strings.Repeat("b", 40), 24*time.Hour
	h.Gossip = strings.Repeat("g", 95) + ":7946"
	record, err := h.Encode()
	check(t, err)
	got, err := filestore.DecodeHeartbeat(record)
	check(t, err)
	if len(record) != 512 || got.Host == "" || !strings.HasPrefix(h.Host, got.Host) {
		t.Errorf("%d bytes, host %q", len(record), got.Host)
	}
	h.Host = got.Host
	if diff := cmp.Diff(h, got); diff != "" {
		t.Error(diff)
	}
}

func TestGossipAddressIsPrintableAndBounded(t *testing.T) {
	for given, want := range map[string]string{
		"10.0.0.1:7946":                "10.0.0.1:7946",
		"a\nb\"<c>&\x00é\\:1":          "a_b__c_____:1",
		strings.Repeat("a", 101):       strings.Repeat("a", 100),
		strings.Repeat("\u2028", 1000): strings.Repeat("_", 100),
	} {
		h := someHeartbeat
		h.Gossip = given
		record, err := h.Encode()
		check(t, err)
		got, err := filestore.DecodeHeartbeat(record)
		check(t, err)
		if got.Gossip != want {
			t.Errorf("%q: got %q, want %q", given, got.Gossip, want)
		}
	}
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
	f.Add(foreignRecord(`{"state":"live","life":18446744073709551615,"gossip":"a\u0000<` + strings.Repeat("x", 200) + `"}`))
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
		if len(h.Gossip) > 100 || strings.ContainsFunc(h.Gossip, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("gossip address %q", h.Gossip)
		}
	})
}

// foreignRecord is a record with a sound checksum and any content.
func foreignRecord(text string) []byte {
	body := fmt.Sprintf("%-496s\n", text)
	return fmt.Appendf(nil, "RPHB1 %08x %s", crc32.Checksum([]byte(body), crc32.MakeTable(crc32.Castagnoli)), body)
}
