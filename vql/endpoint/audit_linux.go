package endpoint

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/elastic/go-libaudit/v2"
	"github.com/elastic/go-libaudit/v2/aucoalesce"
	"github.com/elastic/go-libaudit/v2/auparse"
	"golang.org/x/sys/unix"
	"raptorpack/vql"
)

const (
	auditGroup    = 1       // AUDIT_NLGRP_READLOG
	auditBuffer   = 4 << 20 // of the socket; the kernel drops what exceeds it
	auditMessage  = 64 << 10
	auditInFlight = 1000            // events that wait for further messages
	auditPatience = 2 * time.Second // for further messages of an event
)

// watchAudit reads what the kernel sends to all who listen; it changes nothing
// about auditing.
func watchAudit(ctx context.Context, scope *vql.Scope, emit vql.Emit) error {
	socket, err := openAudit()
	if err != nil {
		return err
	}
	defer socket.Close()
	events := &auditStream{scope: scope}
	whole, err := libaudit.NewReassembler(auditInFlight, auditPatience, events)
	if err != nil {
		return err
	}
	defer whole.Close()
	stop := context.AfterFunc(ctx, func() { _ = socket.SetReadDeadline(time.Unix(1, 0)) }) // wakes the reader below
	defer stop()
	buf := make([]byte, auditMessage)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := readAudit(ctx, scope, socket, buf, whole); err != nil {
			return err
		}
		if err := whole.Maintain(); err != nil {
			return err
		}
		if err := events.emit(emit); err != nil {
			return err
		}
	}
}

// openAudit joins the kernel's multicast group, audit(8) and netlink(7).
func openAudit() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_AUDIT)
	if err != nil {
		return nil, fmt.Errorf("the kernel has no audit socket: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "audit")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: auditGroup}); err != nil {
		_ = socket.Close() // nothing was read or written
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("the capability CAP_AUDIT_READ is needed: %w", err)
		}
		return nil, fmt.Errorf("listen to the audit group: %w", err)
	}
	// Without the right to exceed the system's bound, that bound is what we get.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, auditBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, auditBuffer) // the default does too
	}
	return socket, nil
}

// readAudit waits for messages, a while at most, and hands them to the reassembler.
func readAudit(ctx context.Context, scope *vql.Scope, socket *os.File, buf []byte, whole *libaudit.Reassembler) error {
	if err := socket.SetReadDeadline(time.Now().Add(auditPatience / 4)); err != nil {
		return err
	}
	if ctx.Err() != nil { // it ended before the deadline was set
		return ctx.Err()
	}
	n, err := socket.Read(buf)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ctx.Err()
	case errors.Is(err, unix.ENOBUFS):
		scope.Log(vql.LevelWarn, "audit: events came faster than they were read, and some are lost")
		return nil
	case err != nil:
		return err
	}
	if err := scope.Charge(ctx); err != nil {
		return err
	}
	eachNetlink(buf[:n], func(kind uint16, data []byte) {
		if err := whole.Push(auparse.AuditMessageType(kind), data); err != nil {
			scope.Log(vql.LevelWarn, "audit: message of type %d: %v", kind, err)
		}
	})
	return nil
}

// eachNetlink hands on the messages of a datagram. The kernel's audit messages give
// the length without the header.
func eachNetlink(data []byte, each func(kind uint16, data []byte)) {
	const head = unix.SizeofNlMsghdr
	for len(data) >= head {
		size := int64(binary.NativeEndian.Uint32(data))
		kind := binary.NativeEndian.Uint16(data[4:])
		body := data[head:min(max(size, head), int64(len(data)))]
		if size <= head || size+head >= int64(len(data)) {
			body = data[head:] // the only one
		}
		each(kind, append([]byte(nil), body...))
		data = data[min(head+len(body)+(4-len(body)%4)%4, len(data)):]
	}
}

// auditStream takes events from the reassembler, which calls it while it is being
// pushed to.
type auditStream struct {
	scope *vql.Scope
	rows  []*vql.Dict
}

// ReassemblyComplete implements libaudit.Stream.
func (s *auditStream) ReassemblyComplete(messages []*auparse.AuditMessage) {
	row, err := auditRow(messages)
	if err != nil {
		s.scope.Log(vql.LevelWarn, "audit: %v", err)
		return
	}
	s.rows = append(s.rows, row)
}

// EventsLost implements libaudit.Stream.
func (s *auditStream) EventsLost(count int) {
	s.scope.Log(vql.LevelWarn, "audit: %d events are missing in the sequence", count)
}

func (s *auditStream) emit(emit vql.Emit) error {
	rows := s.rows
	s.rows = nil
	for _, row := range rows {
		if err := emit(row); err != nil {
			return err
		}
	}
	return nil
}

// auditRow makes one event of its messages.
func auditRow(messages []*auparse.AuditMessage) (*vql.Dict, error) {
	event, err := aucoalesce.CoalesceMessages(messages)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(event)
	if err != nil {
		return nil, err
	}
	v, err := decodeJSON(text)
	if err != nil {
		return nil, err
	}
	fields, ok := v.(*vql.Dict)
	if !ok {
		return nil, errJSON
	}
	row := vql.NewDict().SetCaseInsensitive()
	row.Set("timestamp", event.Timestamp.UTC())
	for _, name := range fields.Keys() {
		if name == "@timestamp" {
			continue
		}
		value, _ := fields.Get(name)
		row.Set(name, ignoreCase(value))
	}
	return row, nil
}

// ignoreCase gives a value whose dicts take their keys in any case.
func ignoreCase(v vql.Value) vql.Value {
	switch v := v.(type) {
	case *vql.Dict:
		for _, name := range v.Keys() {
			inner, _ := v.Get(name)
			v.Set(name, ignoreCase(inner))
		}
		return v.SetCaseInsensitive() // a copy
	case []any:
		for i := range v {
			v[i] = ignoreCase(v[i])
		}
	}
	return v
}
