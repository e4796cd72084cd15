package flows

import (
	"encoding/binary"
	"slices"
	"time"

	"raptorpack/filestore"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
)

// A packed record is, all numbers as varints: the state, the entry that started the
// flow, flags, what is always there, and what the flags name. It lives in memory only;
// no file has it. What is read was written here, so reading checks nothing.

// Flags of a packed record: what is not the usual.
const (
	hasError = 1 << iota
	hasCanceller
	hasCleared
	hasClearer
	hasOffered
	hasOffers
	hasWaited
	hasCancelled
	hasUploads
	cancelDue
	reopened
	cpuTold
)

// resting are the states a packed record may have, by their number.
var resting = []State{Completed, Incomplete, Errored, Cancelled}

// marks are the texts that many records share: incarnations of nodes. Each is kept
// once and meant by its number; beyond maxMarks records carry their own.
type marks struct {
	texts   []string
	numbers map[string]uint64
}

const maxMarks = 1 << 12

// append writes a text, or the number it is known by.
func (m *marks) append(out []byte, text string) []byte {
	number, known := m.numbers[text]
	if !known && len(m.texts) < maxMarks {
		if m.numbers == nil {
			m.numbers = map[string]uint64{}
		}
		m.texts = append(m.texts, text)
		number, known = uint64(len(m.texts)), true
		m.numbers[text] = number
	}
	if known {
		return binary.AppendUvarint(out, number)
	}
	return appendText(append(out, 0), text)
}

func (m *marks) read(r *packedReader) string {
	if number := r.uint(); number > 0 {
		return m.texts[number-1]
	}
	return r.text()
}

// packedIndex is the entry that started a packed flow.
func packedIndex(packed string) uint64 {
	r := packedReader{packed[1:]}
	return r.uint()
}

// packedState is the state of a packed flow.
func packedState(packed string) State { return resting[packed[0]] }

func (m *marks) pack(f *Flow) string {
	var scratch [256]byte
	out := append(scratch[:0], byte(slices.Index(resting, f.State)))
	out = binary.AppendUvarint(out, f.Index)
	flags := f.flags()
	out = binary.AppendUvarint(out, flags)
	for _, n := range []int64{int64(f.Turn - f.Index), int64(f.Outcome)} {
		out = binary.AppendVarint(out, n)
	}
	created := micros.Of(f.Created)
	out = binary.AppendVarint(out, created)
	for _, at := range []time.Time{f.Taken, f.Ended, f.FirstActive} {
		out = appendTime(out, at, created)
	}
	t := f.Totals
	for _, n := range []int64{int64(f.Duration), t.Rows, t.Logs, t.Uploads, t.UploadBytes, t.ExpectedUploadBytes} {
		out = binary.AppendVarint(out, n)
	}
	out = m.appendHeld(out, f)
	return string(m.appendRest(out, f, flags, created))
}

func (f *Flow) flags() (flags uint64) {
	for _, one := range [...]struct {
		set  bool
		flag uint64
	}{
		{f.Error != "", hasError},
		{f.CancelledBy != "", hasCanceller},
		{f.Cleared != 0, hasCleared},
		{f.ClearedBy != "", hasClearer},
		{f.Offered != "", hasOffered},
		{f.Offers != 0, hasOffers},
		{!f.WaitingSince.IsZero(), hasWaited},
		{!f.CancelledAt.IsZero(), hasCancelled},
		{len(f.Uploads)+len(f.Sizes) > 0, hasUploads},
		{f.CancelDue, cancelDue},
		{f.Reopened, reopened},
		{f.CPU.Told, cpuTold},
	} {
		if one.set {
			flags |= one.flag
		}
	}
	return flags
}

// appendHeld writes what the nodes hold of rows, and which nodes.
func (m *marks) appendHeld(out []byte, f *Flow) []byte {
	out = binary.AppendUvarint(out, uint64(len(f.Names)))
	for _, c := range f.Names {
		at := slices.IndexFunc(f.Spec.Names, func(n Name) bool { return n.Result == c.Name })
		if out = binary.AppendUvarint(out, uint64(at+1)); at < 0 {
			out = appendText(out, c.Name)
		}
		out = appendIntervals(out, c.Rows)
	}
	out = binary.AppendUvarint(out, uint64(len(f.Parts)))
	for _, p := range f.Parts {
		out = m.append(out, p.Incarnation)
		out = binary.AppendVarint(binary.AppendVarint(out, p.UploadBytes), p.Conflicts)
	}
	return out
}

// appendRest writes what the flags name.
func (m *marks) appendRest(out []byte, f *Flow, flags uint64, created int64) []byte {
	if flags&hasError != 0 {
		out = appendText(out, f.Error)
	}
	if flags&hasCanceller != 0 {
		out = appendText(out, f.CancelledBy)
	}
	if flags&hasCleared != 0 {
		out = binary.AppendUvarint(out, f.Cleared)
	}
	if flags&hasClearer != 0 {
		out = appendText(out, f.ClearedBy)
	}
	if flags&hasOffered != 0 {
		out = m.append(out, f.Offered)
	}
	if flags&hasOffers != 0 {
		out = binary.AppendVarint(out, int64(f.Offers))
	}
	if flags&hasWaited != 0 {
		out = appendTime(out, f.WaitingSince, created)
	}
	if flags&hasCancelled != 0 {
		out = appendTime(out, f.CancelledAt, created)
	}
	if flags&hasUploads != 0 {
		out = binary.AppendUvarint(appendIntervals(out, f.Uploads), uint64(len(f.Sizes)))
		for _, u := range f.Sizes {
			out = binary.AppendVarint(binary.AppendVarint(out, u.Number), u.Bytes)
		}
	}
	if flags&cpuTold != 0 {
		out = binary.AppendVarint(out, int64(f.CPU.Used))
	}
	return out
}

func appendText(out []byte, text string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(text))), text...)
}

// appendTime writes a time as the distance from another, with 0 for none.
func appendTime(out []byte, at time.Time, from int64) []byte {
	if at.IsZero() {
		return append(out, 0)
	}
	return binary.AppendVarint(append(out, 1), micros.Of(at)-from)
}

func appendIntervals(out []byte, s filestore.Intervals) []byte {
	out = binary.AppendUvarint(out, uint64(len(s)))
	for _, i := range s {
		out = binary.AppendVarint(binary.AppendVarint(out, i.Start), i.Len())
	}
	return out
}

func (m *marks) unpack(packed string, key Key, spec *Spec) *Flow {
	r := &packedReader{packed[1:]}
	f := &Flow{Key: key, Spec: spec, State: packedState(packed), Index: r.uint()}
	flags := r.uint()
	f.Turn, f.Outcome = f.Index+uint64(r.int()), buspb.FlowEnd_Outcome(r.int())
	created := r.int()
	f.Created = micros.Time(created)
	f.Taken, f.Ended, f.FirstActive = r.time(created), r.time(created), r.time(created)
	f.Duration = time.Duration(r.int())
	f.Totals = Totals{r.int(), r.int(), r.int(), r.int(), r.int()}
	m.readHeld(r, f)
	m.readRest(r, f, flags, created)
	return f
}

func (m *marks) readHeld(r *packedReader, f *Flow) {
	if n := r.uint(); n > 0 {
		f.Names = make([]Coverage, n)
	}
	for i := range f.Names {
		if at := r.uint(); at > 0 {
			f.Names[i].Name = f.Spec.Names[at-1].Result
		} else {
			f.Names[i].Name = r.text()
		}
		f.Names[i].Rows = r.intervals()
	}
	if n := r.uint(); n > 0 {
		f.Parts = make([]Part, n)
	}
	for i := range f.Parts {
		f.Parts[i] = Part{m.read(r), r.int(), r.int()}
	}
}

func (m *marks) readRest(r *packedReader, f *Flow, flags uint64, created int64) {
	f.CancelDue, f.Reopened, f.CPU.Told = flags&cancelDue != 0, flags&reopened != 0, flags&cpuTold != 0
	if flags&hasError != 0 {
		f.Error = r.text()
	}
	if flags&hasCanceller != 0 {
		f.CancelledBy = r.text()
	}
	if flags&hasCleared != 0 {
		f.Cleared = r.uint()
	}
	if flags&hasClearer != 0 {
		f.ClearedBy = r.text()
	}
	if flags&hasOffered != 0 {
		f.Offered = m.read(r)
	}
	if flags&hasOffers != 0 {
		f.Offers = int(r.int())
	}
	if flags&hasWaited != 0 {
		f.WaitingSince = r.time(created)
	}
	if flags&hasCancelled != 0 {
		f.CancelledAt = r.time(created)
	}
	if flags&hasUploads != 0 {
		f.Uploads = r.intervals()
		if n := r.uint(); n > 0 {
			f.Sizes = make([]UploadSize, n)
		}
		for i := range f.Sizes {
			f.Sizes[i] = UploadSize{r.int(), r.int()}
		}
	}
	if f.CPU.Told {
		f.CPU.Used = time.Duration(r.int())
	}
}

// packedReader reads what the functions above wrote. Texts share its memory.
type packedReader struct{ rest string }

func (r *packedReader) uint() uint64 {
	var n uint64
	for shift := 0; ; shift += 7 {
		b := r.rest[0]
		r.rest = r.rest[1:]
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return n
		}
	}
}

func (r *packedReader) int() int64 {
	n := r.uint()
	return int64(n>>1) ^ -int64(n&1)
}

func (r *packedReader) text() string {
	n := r.uint()
	text := r.rest[:n]
	r.rest = r.rest[n:]
	return text
}

func (r *packedReader) time(from int64) time.Time {
	if r.uint() == 0 {
		return time.Time{}
	}
	return micros.Time(from + r.int())
}

func (r *packedReader) intervals() filestore.Intervals {
	n := r.uint()
	if n == 0 {
		return nil
	}
	out := make(filestore.Intervals, n)
	for i := range out {
		start := r.int()
		out[i] = filestore.Interval{Start: start, End: start + r.int()}
	}
	return out
}
