package endpoint

import (
	"encoding/binary"
	"errors"
	"testing"

	"raptorpack/vql"
)

// xmlWriter makes binary XML for tests: hostile files that no tool writes.
type xmlWriter struct{ data []byte }

func (w *xmlWriter) bytes(b ...byte) { w.data = append(w.data, b...) }
func (w *xmlWriter) u16(v int)       { w.data = binary.LittleEndian.AppendUint16(w.data, uint16(v)) }

func (w *xmlWriter) u32(v int) { w.data = binary.LittleEndian.AppendUint32(w.data, uint32(v)) }

// template begins a template instance whose definition stands right here.
func (w *xmlWriter) template(at int, body func(), values func()) {
	w.bytes(tokenTemplate, 1)
	w.u32(1)
	w.u32(at + len(w.data) + 4)
	w.bytes(make([]byte, 20)...)
	size := len(w.data)
	w.u32(0)
	body()
	binary.LittleEndian.PutUint32(w.data[size:], uint32(len(w.data)-size-4))
	values()
}

// open begins an element; the writer's first byte is the first behind the head of
// the chunk.
func (w *xmlWriter) open(name string) {
	w.bytes(tokenOpen)
	w.u16(0)
	w.u32(0)
	w.u32(evtxChunkHead + len(w.data) + 4)
	w.bytes(0, 0, 0, 0, 0, 0)
	w.u16(len(name))
	for i := range len(name) {
		w.bytes(name[i], 0)
	}
	w.bytes(0, 0, tokenCloseStart)
}

// record writes a record with an event that holds a text.
func (w *xmlWriter) record(text string) {
	w.bytes(make([]byte, (8-len(w.data)%8)%8)...)
	start := len(w.data)
	w.bytes([]byte("**\x00\x00")...)
	w.bytes(make([]byte, 20)...)
	w.open("Event")
	w.open("EventData")
	w.bytes(tokenText, 1)
	w.u16(len(text))
	for i := range len(text) {
		w.bytes(text[i], 0)
	}
	w.bytes(tokenCloseElement, tokenCloseElement, tokenEnd)
	size := len(w.data) - start + 4
	w.u32(size)
	binary.LittleEndian.PutUint32(w.data[start+4:], uint32(size))
}

func TestEvtxGoesOnBehindDamage(t *testing.T) {
	w := &xmlWriter{}
	w.record("one")
	lost := len(w.data)
	w.record("two")
	w.record("three")
	w.data[lost+8-lost%8] = '?' // the magic of the second, or padding before it
	data := append(make([]byte, evtxChunkHead), w.data...)
	binary.LittleEndian.PutUint32(data[48:], uint32(len(data)))
	got := parseChunk(append(data, make([]byte, 1000)...), 0)
	if len(got.events) != 2 || got.trouble != "chunk at 0: 1 places are damaged, the first: "+errNoRecord.Error() {
		t.Fatalf("%d events, trouble %q", len(got.events), got.trouble)
	}
	if text, _ := got.events[1].Get("EventData"); text != "three" {
		t.Errorf("behind the damage came %v", text)
	}
}

func TestEvtxMessagesAreFilled(t *testing.T) {
	event := vql.NewDict().Set("EventData", vql.NewDict().Set("User", "jo").Set("None", vql.NULL).Set("N", int64(7)))
	const text, want = "%1 has%2 %3!d! of %99 in 100 %%.%n", "jo has 7 of %99 in 100 %.\n"
	if got := fillMessage(text, event); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func chunkOf(xml []byte) *evtxChunk {
	data := make([]byte, evtxChunkHead, evtxChunkSize)
	return &evtxChunk{data: append(data, xml...), budget: evtxBudget, templates: map[int]*xmlTemplate{}}
}

// A value that holds itself twice, level upon level, would be 2^60 values.
func TestEvtxValuesInValuesAreBounded(t *testing.T) {
	xml := []byte{tokenEnd}
	for range 60 {
		w := &xmlWriter{}
		w.bytes(tokenTemplate, 1)
		w.u32(1)
		w.u32(evtxChunkHead) // a template that stands elsewhere
		w.u32(2)
		for range 2 {
			w.u16(len(xml) / 2)
			w.bytes(xmlNested, 0)
		}
		w.bytes(xml...)
		xml = w.data
		if len(xml) > evtxChunkSize/2 {
			break
		}
	}
	w := &xmlWriter{}
	w.bytes(make([]byte, 20)...)
	w.u32(8)
	w.bytes(tokenSubstitution, 0, 0, xmlNested, tokenSubstitution, 0, 0, xmlNested)
	k := chunkOf(append(w.data, xml...))
	if _, err := k.event(evtxChunkHead+len(w.data), len(k.data)); err == nil {
		t.Error("an event came out")
	}
	if spent := evtxBudget - k.budget; spent > evtxBudget+1000 {
		t.Errorf("%d of %d were spent", spent, evtxBudget)
	}
}

func TestEvtxTemplateThatHoldsItselfIsRefused(t *testing.T) {
	w := &xmlWriter{}
	w.template(evtxChunkHead, func() {
		w.bytes(tokenTemplate, 1)
		w.u32(1)
		w.u32(evtxChunkHead + 10) // where the outer one begins
		w.u32(0)
		w.bytes(tokenEnd)
	}, func() { w.u32(0) })
	k := chunkOf(w.data)
	if _, err := k.event(evtxChunkHead, len(k.data)); !errors.Is(err, errEvtxDepth) {
		t.Errorf("got %v", err)
	}
}

func TestEvtxElementsAreBoundedInDepth(t *testing.T) {
	w := &xmlWriter{}
	for range 200 {
		w.open("a")
	}
	k := chunkOf(w.data)
	if _, err := k.event(evtxChunkHead, len(k.data)); !errors.Is(err, errEvtxDepth) {
		t.Errorf("got %v", err)
	}
}

func TestEvtxScalars(t *testing.T) {
	for _, c := range []struct {
		kind int
		data string
		want any
	}{
		{0x01, "h\x00i\x00\x00\x00", "hi"},
		{0x03, "\xff", int64(-1)},
		{0x05, "\xfe\xff", int64(-2)},
		{0x07, "\xff\xff\xff\xff", int64(-1)},
		{0x0a, "\xff\xff\xff\xff\xff\xff\xff\xff", uint64(1<<64 - 1)},
		{0x0c, "\x00\x00\x00\x00\x00\x00\xf8\x3f", 1.5},
		{0x0d, "\x01\x00\x00\x00", true},
		{0x0e, "\x01\xab", "01AB"},
		{0x10, "\x05\x00\x00\x00", int64(5)},
		{0x11, "\x00\x80\x3e\xd5\xde\xb1\x9d\x01", 0.0},
		{0x13, "\x01\x02\x00\x00\x00\x00\x00\x05\x20\x00\x00\x00\x21\x02\x00\x00", "S-1-5-32-545"},
		{0x13, "\x01\xff", "01FF"},
		{0x08, "\x01", "01"}, // not the length of its type
		{0x77, "\x01", "01"},
	} {
		if got := scalarValue(c.kind, []byte(c.data)); got != c.want {
			t.Errorf("type %#x: got %v, want %v", c.kind, got, c.want)
		}
	}
}
