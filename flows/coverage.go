package flows

import (
	"cmp"
	"slices"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

// cover takes over what a node holds. Nothing that f shares with earlier records is
// written to.
func (f *Flow) cover(c *buspb.FlowCoverage) {
	if c == nil {
		return
	}
	names := slices.Clone(f.Names)
	for _, extent := range c.Names {
		at, found := slices.BinarySearchFunc(names, extent.Name, func(c Coverage, n string) int { return compareText(c.Name, n) })
		if !found {
			names = slices.Insert(names, at, Coverage{Name: extent.Name})
		}
		rows := names[at].Rows.Clone()
		addBounds(&rows, extent.Bounds)
		names[at].Rows = rows
	}
	f.Names = names
	uploads := f.Uploads.Clone()
	addBounds(&uploads, c.Uploads)
	f.Uploads = uploads
	f.Sizes = unite(f.Sizes, sizesOf(c.UploadSizes))
	if c.Incarnation == "" {
		return
	}
	f.Parts = slices.Clone(f.Parts)
	at, found := slices.BinarySearchFunc(f.Parts, c.Incarnation, func(p Part, n string) int { return compareText(p.Incarnation, n) })
	if !found {
		f.Parts = slices.Insert(f.Parts, at, Part{Incarnation: c.Incarnation})
	}
	part := &f.Parts[at]
	if part.UploadBytes = max(part.UploadBytes, c.UploadBytes); len(c.UploadSizes) > 0 {
		part.UploadBytes = 0 // Sizes has them
	}
	part.Conflicts = max(part.Conflicts, c.Conflicts)
}

// addBounds adds start, end pairs. Pairs that make no sense are left out: what
// a peer sends must not break every node.
func addBounds(to *filestore.Intervals, bounds []int64) {
	for i := 0; i+1 < len(bounds); i += 2 {
		if bounds[i] >= 0 {
			to.Add(bounds[i], bounds[i+1])
		}
	}
}

// sizesOf reads number, bytes pairs, by number. Pairs that make no sense are left
// out.
func sizesOf(pairs []int64) []UploadSize {
	var out []UploadSize
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i] >= 0 && pairs[i+1] >= 0 {
			out = append(out, UploadSize{pairs[i], pairs[i+1]})
		}
	}
	slices.SortFunc(out, func(a, b UploadSize) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Bytes, b.Bytes))
	})
	return out
}

func pairsOf(sizes []UploadSize) []int64 {
	out := make([]int64, 0, 2*len(sizes))
	for _, u := range sizes {
		out = append(out, u.Number, u.Bytes)
	}
	return out
}

// unite merges two lists by number. The same upload may have ended on two nodes;
// where they differ, the larger counts, whichever was told first.
func unite(a, b []UploadSize) []UploadSize {
	if len(b) == 0 {
		return a
	}
	out := make([]UploadSize, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		from := &a
		if len(a) == 0 || len(b) > 0 && b[0].Number < a[0].Number {
			from = &b
		}
		next := (*from)[0]
		*from = (*from)[1:]
		if last := len(out) - 1; last >= 0 && out[last].Number == next.Number {
			out[last].Bytes = max(out[last].Bytes, next.Bytes)
		} else {
			out = append(out, next)
		}
	}
	return out
}

func boundsOf(s filestore.Intervals) []int64 {
	out := make([]int64, 0, 2*len(s))
	for _, i := range s {
		out = append(out, i.Start, i.End)
	}
	return out
}
