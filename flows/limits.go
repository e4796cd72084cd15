package flows

import (
	"slices"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

// late reports that a flow wants no more of this. Complete means that every row
// is here; of anything else that ended, stragglers are welcome for a while.
func (p *packet) late(part *part, l *local, i *item) bool {
	f := part.f
	if l.limited && i.kind != logItem || f.Outcome == buspb.FlowEnd_OUTCOME_LIMIT && i.kind != logItem {
		return true
	}
	old := f.old(p.peer.Received) || f.Spec.Origin != nil // its client never had it
	return f.State == Completed && i.kind != logItem || old
}

// beyond says that a limit would be broken: set by the flow, or the server's.
func beyond(have, more, set, std int64, noun string) string {
	limit := set
	if limit <= 0 {
		limit = std
	}
	if have+more <= limit {
		return ""
	}
	return "limit of " + plural(limit, noun) + " exceeded"
}

// tooMany says that an upload would be one more than the flow may have. It is
// asked before anything is noted of the upload.
func (p *packet) tooMany(part *part, l *local, number int64) string {
	if l.uploads[number] != nil || part.f.Uploads.Has(number, number+1) {
		return ""
	}
	have := max(int64(len(l.uploads)), part.f.Uploads.Len())
	return beyond(have, 1, part.f.Spec.Limits.Uploads, p.room.o.Defaults.Uploads, "upload")
}

// rows is what is known to be held of one result.
func (f *Flow) rows(name string) filestore.Intervals {
	at, found := slices.BinarySearchFunc(f.Names, name, func(c Coverage, n string) int { return compareText(c.Name, n) })
	if !found {
		return nil
	}
	return f.Names[at].Rows
}

// packRows is how many rows the pack has with a batch: those that nodes told of,
// and those here that they did not. What is on its way is not in it.
func (l *local) packRows(f *Flow, i *item) int64 {
	n := f.Rows()
	for name, s := range l.names {
		told := f.rows(name)
		for _, have := range s.have {
			n += told.Missing(have.Start, have.End).Len()
		}
	}
	told, here := f.rows(i.name), l.names[i.name]
	for _, fresh := range told.Missing(i.batch.first, i.batch.end()) {
		if here == nil {
			n += fresh.Len()
		} else {
			n += here.have.Missing(fresh.Start, fresh.End).Len()
		}
	}
	return n
}

// over says which limit an item would break, if any. That on rows holds for the
// pack, as far as nodes have told what they hold; the others for each node.
func (p *packet) over(part *part, l *local, s *stream, i *item) string {
	f := part.f
	set, std := f.Spec.Limits, p.room.o.Defaults
	switch i.kind {
	case rowItem:
		if len(s.have) >= maxIntervals {
			return "rows are too scattered"
		}
		for _, rows := range []int64{l.rows + i.batch.count, l.packRows(f, i)} {
			if text := beyond(rows, 0, set.Rows, std.Rows, "row"); text != "" {
				return text
			}
		}
		return beyond(l.rowBytes, i.size, set.RowBytes, std.RowBytes, "byte of rows")
	case logItem:
		if len(s.have) >= maxIntervals {
			return "log is too scattered"
		}
		// The client writes a line more to say that it fell silent.
		return beyond(l.logLines, i.batch.count-logSlack, set.Logs, std.Logs, "log line")
	case dataItem:
		if len(s.have) >= maxIntervals {
			return "upload is too scattered"
		}
		if text := beyond(i.batch.end(), 0, set.UploadBytes, std.UploadBytes, "byte of uploads"); text != "" {
			return text
		}
		i.size = i.batch.count - s.overlap(i.batch)
		return beyond(l.uploadBytes, i.size, set.UploadBytes, std.UploadBytes, "byte of uploads")
	case endItem:
		if len(s.have) >= maxIntervals {
			return "numbers of uploads are too scattered"
		}
	}
	return ""
}

// logSlack is how many log lines beyond the limit are taken.
const logSlack = 100

// overlap counts what of b is had already.
func (s *stream) overlap(b batch) int64 {
	return b.count - s.have.Missing(b.first, b.end()).Len()
}

// charge counts an item against the flow's limits; sign -1 gives it back.
func (l *local) charge(i *item, sign int64) {
	switch i.kind {
	case rowItem:
		l.rows += sign * i.batch.count
		l.rowBytes += sign * i.size
	case logItem:
		l.logLines += sign * i.batch.count
	case dataItem:
		l.uploadBytes += sign * i.size
	}
}
