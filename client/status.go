package client

import (
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/wirepb"
)

// maxErrorText bounds the error that a status reports; a scope dump in it can
// be long.
const maxErrorText = 4 << 10

// queryStatus is the progress of one VQLCollectorArgs.
type queryStatus struct {
	mu  sync.Mutex
	v   wirepb.VeloStatus
	cpu *cpuUse // nil: not counted, as of event queries, or not begun
}

func newQueryStatus(now time.Time) *queryStatus {
	at := uint64(now.UnixMicro())
	return &queryStatus{v: wirepb.VeloStatus{
		Status: wirepb.VeloStatus_PROGRESS, FirstActive: at, LastActive: at,
	}}
}

// update changes the status under its lock.
func (s *queryStatus) update(change func(v *wirepb.VeloStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.v)
	s.v.LastActive = uint64(time.Now().UnixMicro())
}

// fail notes an error; the first one stays. The query goes on.
func (s *queryStatus) fail(text string) {
	s.update(func(v *wirepb.VeloStatus) {
		if v.ErrorMessage == "" {
			v.ErrorMessage = shortText(text, maxErrorText)
		}
	})
}

// begin counts the query's processor time from here until finish.
func (s *queryStatus) begin(m *CPUMeter) {
	use := m.begin()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cpu = use
}

// finish ends the query: an error noted before or now makes it GENERIC_ERROR.
func (s *queryStatus) finish(started time.Time, err error) {
	if err != nil {
		s.fail(err.Error())
	}
	s.update(func(v *wirepb.VeloStatus) {
		v.Duration = int64(time.Since(started))
		if s.cpu != nil {
			v.CpuNs = s.cpu.end()
			s.cpu = nil
		}
		v.Status = wirepb.VeloStatus_OK
		if v.ErrorMessage != "" {
			v.Status = wirepb.VeloStatus_GENERIC_ERROR
		}
	})
}

// addRows counts rows that came into the buffer under name.
func (s *queryStatus) addRows(name string, n int64) {
	s.update(func(v *wirepb.VeloStatus) {
		v.ResultRows += n
		if !slices.Contains(v.NamesWithResponse, name) {
			v.NamesWithResponse = append(v.NamesWithResponse, name)
		}
	})
}

// snapshot copies the status for a message.
func (s *queryStatus) snapshot(started time.Time) *wirepb.VeloStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := proto.Clone(&s.v).(*wirepb.VeloStatus)
	if v.Status == wirepb.VeloStatus_PROGRESS {
		v.Duration = int64(time.Since(started))
		if s.cpu != nil {
			v.CpuNs = s.cpu.sofar()
		}
	}
	return v
}
