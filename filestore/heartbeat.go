package filestore

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
)

// heartbeatBytes is the size of a heartbeat record, always: it is rewritten in
// place, within one page of any cache and one sector of any disk.
const heartbeatBytes = 512

// A record reads "RPHB1 <8 hex digits: CRC32C of the rest> <JSON><spaces>\n",
// so that an operator can simply look at it.
const (
	heartbeatMagic = "RPHB1 "
	heartbeatBody  = len(heartbeatMagic) + 8 + 1
	maxHeartbeat   = heartbeatBytes - heartbeatBody - 1 // bytes of JSON
)

// Heartbeat is what a claim file says: who holds it, and a counter that moves
// while they do. Times in it are for people; no clock is compared with another.
type Heartbeat struct {
	Counter  uint64        // +1 with each renewal, through all lives
	Life     uint64        // of an incarnation: how often it went on after a lapse
	Run      string        // 32 hex digits of chance, new for each claim
	Node     string        // name of the node, or empty
	Host     string        // as hostname(1) says, cut at 64 bytes
	Boot     string        // boot id of the host's kernel, or empty
	PIDNS    uint64        // inode of the pid namespace, or 0
	PID      int           // process id within that namespace
	PIDStart uint64        // its start in clock ticks since boot
	Started  time.Time     // when the claim was made, by the claimant's clock
	TTL      time.Duration // how long one renewal lasts
	Released bool          // given up cleanly
	Gossip   string        // host:port where the node's gossip is reached, or empty
}

type heartbeatJSON struct {
	Counter  uint64 `json:"counter"`
	State    string `json:"state"`
	Node     string `json:"node"`
	Host     string `json:"host"`
	PID      int    `json:"pid"`
	Started  int64  `json:"started"`
	TTL      int64  `json:"ttl_ms"`
	Run      string `json:"run"`
	Boot     string `json:"boot"`
	PIDNS    uint64 `json:"pidns"`
	PIDStart uint64 `json:"pid_start"`
	Life     uint64 `json:"life,omitempty"`
	Gossip   string `json:"gossip,omitempty"`
}

// maxGossip bounds a gossip address in the record, in bytes.
const maxGossip = 100

const (
	stateLive     = "live"
	stateReleased = "released"
)

// process identifies an operating system process across the pack.
type process struct {
	host, boot string
	pidNS      uint64
	pid        int
	start      uint64
}

// newHeartbeat begins the record of a claim by this process.
func (p process) newHeartbeat(node string, ttl time.Duration) Heartbeat {
	var run [16]byte
	rand.Read(run[:]) // never fails since Go 1.24
	return Heartbeat{
		Counter: 1, Run: hex.EncodeToString(run[:]), Node: node, Host: plain(p.host, 64), Boot: plain(p.boot, 40),
		PIDNS: p.pidNS, PID: p.pid, PIDStart: p.start, Started: time.Now().UTC(), TTL: ttl,
	}
}

// knowsGone reports whether the claim's process surely runs no more: same
// kernel, same boot, same pid namespace, and the pid is free or taken anew.
func (p process) knowsGone(h Heartbeat) bool {
	comparable := p.boot != "" && p.boot == h.Boot && p.pidNS != 0 && p.pidNS == h.PIDNS && h.PID > 0
	return comparable && pidGone(h.PID, h.PIDStart)
}

// plain keeps printable ASCII that JSON needs not escape, at most limit bytes.
func plain(text string, limit int) string {
	kept := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || strings.ContainsRune(`"\<>&`, r) {
			return '_'
		}
		return r
	}, text)
	return kept[:min(len(kept), limit)]
}

// Encode returns the record, always 512 bytes. If all is as long as can be, the
// host, which is for people only, is cut to what has room.
func (h Heartbeat) Encode() ([]byte, error) {
	body, err := h.body()
	if surplus := len(body) - maxHeartbeat; err == nil && surplus > 0 && surplus <= len(h.Host) {
		h.Host = h.Host[:len(h.Host)-surplus]
		body, err = h.body()
	}
	if err != nil {
		return nil, fmt.Errorf("encode heartbeat: %w", err)
	}
	record := bytes.Repeat([]byte{' '}, heartbeatBytes)
	record[heartbeatBytes-1] = '\n'
	if len(body) > maxHeartbeat {
		return nil, fmt.Errorf("encode heartbeat of %d bytes: %w", len(body), ErrTooLarge)
	}
	copy(record[heartbeatBody:], body)
	sum := crc32.Checksum(record[heartbeatBody:], castagnoli)
	copy(record, fmt.Sprintf("%s%08x ", heartbeatMagic, sum))
	return record, nil
}

func (h Heartbeat) body() ([]byte, error) {
	state := stateLive
	if h.Released {
		state = stateReleased
	}
	return json.Marshal(heartbeatJSON{
		Counter: h.Counter, State: state, Node: h.Node, Host: h.Host, PID: h.PID,
		Started: h.Started.UnixMicro(), TTL: h.TTL.Milliseconds(), Run: h.Run, Boot: h.Boot, PIDNS: h.PIDNS, PIDStart: h.PIDStart,
		Life: h.Life, Gossip: plain(h.Gossip, maxGossip),
	})
}

// newer reports whether h was written after other by the same holder: a late
// write of an earlier life may land on a newer record.
func (h Heartbeat) newer(other Heartbeat) bool {
	return cmp.Or(cmp.Compare(h.Life, other.Life), cmp.Compare(h.Counter, other.Counter)) > 0
}

// DecodeHeartbeat reads a record. Anything but 512 whole bytes is
// ErrBadRecord; a reader may have met a renewal half-way.
func DecodeHeartbeat(record []byte) (Heartbeat, error) {
	if len(record) != heartbeatBytes {
		return Heartbeat{}, fmt.Errorf("heartbeat of %d bytes: %w", len(record), ErrBadRecord)
	}
	body := record[heartbeatBody:]
	head := fmt.Sprintf("%s%08x ", heartbeatMagic, crc32.Checksum(body, castagnoli))
	if string(record[:heartbeatBody]) != head {
		return Heartbeat{}, fmt.Errorf("heartbeat: magic or checksum: %w", ErrBadRecord)
	}
	var v heartbeatJSON
	if err := json.Unmarshal(body, &v); err != nil {
		return Heartbeat{}, fmt.Errorf("heartbeat: %w: %w", ErrBadRecord, err)
	}
	known := v.State == stateLive || v.State == stateReleased
	if !known || v.TTL < 0 || v.TTL > (24*time.Hour).Milliseconds() {
		return Heartbeat{}, fmt.Errorf("heartbeat: state %.20q, ttl %d ms: %w", v.State, v.TTL, ErrBadRecord)
	}
	return Heartbeat{
		Counter: v.Counter, Released: v.State == stateReleased, Node: v.Node, Host: v.Host, PID: v.PID,
		Started: time.UnixMicro(v.Started).UTC(), TTL: time.Duration(v.TTL) * time.Millisecond,
		Run: v.Run, Boot: v.Boot, PIDNS: v.PIDNS, PIDStart: v.PIDStart, Life: v.Life, Gossip: plain(v.Gossip, maxGossip),
	}, nil
}
