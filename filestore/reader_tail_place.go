package filestore

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"
)

// A place names per day how far each segment is read. It is text because it goes
// through browsers and the ledger: base64url of
//
//	version (1), number of days, and for each day, oldest first:
//	  days since 1970-01-01, number of segments, and for each by name:
//	    length and bytes of its file name, offset, extents done of the member there
//
// where all numbers are uvarints. All nodes read each other's.
const (
	placeVersion = 1
	maxPlaceDay  = 2_932_896 // the last of the year 9999
)

// PlaceFrom is the place before all rows of a day, UTC, and behind those of the
// days before it.
func PlaceFrom(day time.Time) string {
	t := Tail{days: map[string]*tailDay{}}
	t.day(day.UTC().Format(time.DateOnly))
	return t.place()
}

// place is how far the tail has read.
func (t *Tail) place() string {
	b := binary.AppendUvarint([]byte{placeVersion}, uint64(len(t.days)))
	for _, name := range slices.Sorted(maps.Keys(t.days)) {
		day, _ := time.Parse(time.DateOnly, name) // every name was one
		files := t.days[name].files
		b = binary.AppendUvarint(b, uint64(max(0, day.Unix()/86400)))
		b = binary.AppendUvarint(b, uint64(len(files)))
		for _, id := range slices.SortedFunc(maps.Keys(files), segmentID.compare) {
			file := segmentName(id.incarnation(), id.part)
			b = binary.AppendUvarint(b, uint64(len(file)))
			b = append(b, file...)
			b = binary.AppendUvarint(b, uint64(files[id].offset))
			b = binary.AppendUvarint(b, uint64(files[id].extents))
		}
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parsePlace reads a place, which may have been through a browser.
func parsePlace(text string) (map[string]*tailDay, error) {
	bad := fmt.Errorf("read place: %w", ErrBadCursor)
	if len(text) > maxCursor {
		return nil, bad
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) == 0 || b[0] != placeVersion {
		return nil, bad
	}
	d := indexDecoder{b: b[1:]}
	days := map[string]*tailDay{}
	for range d.number(uint64(len(d.b)) / 2) {
		name := time.Unix(int64(d.number(maxPlaceDay))*86400, 0).UTC().Format(time.DateOnly)
		days[name] = &tailDay{files: d.tailPins()}
	}
	if d.bad || len(d.b) != 0 || len(days) == 0 {
		return nil, bad
	}
	return days, nil
}

func (d *indexDecoder) tailPins() map[segmentID]tailPin {
	out := map[segmentID]tailPin{}
	for range d.number(uint64(len(d.b)) / 3) {
		id, ok := parseSegmentName(string(d.take(d.number(255))))
		d.bad = d.bad || !ok
		out[id] = tailPin{offset: int64(d.number(1 << 62)), extents: int(d.number(maxIndex))}
	}
	return out
}
