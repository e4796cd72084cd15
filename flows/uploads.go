package flows

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"slices"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/proto/wirepb"
)

const (
	// UploadName is the name of the extents that list uploads.
	UploadName = "uploads"

	maxBuffer        = 16 << 20 // plain bytes of one buffer; stock clients send 1 MiB
	maxComponents    = 256
	maxComponentText = 16 << 10 // bytes of all components
	maxRanges        = 1 << 20
	maxSparseSize    = 1 << 46 // bytes that a sparse file may claim: 64 TiB

	// finishPatience is how long the end of an upload is refused because bytes
	// are missing, so that what is on its way through another node can come.
	finishPatience = 2 * time.Minute
)

var errIndex = errors.New("index of a sparse file makes no sense")

// uploadEnd is the last buffer of an upload.
type uploadEnd struct {
	number     int64
	accessor   string
	components []string
	source     string
	size       int64 // logical
	stored     int64
	index      []filestore.Range
	mtime      int64 // nanoseconds
}

// Upload is one finished upload as the segment "uploads" of its flow lists it.
type Upload struct {
	Number     int64    `json:"number"`
	Source     string   `json:"source,omitempty"` // path on the client, if it said so
	Accessor   string   `json:"accessor"`
	Components []string `json:"components"`
	Size       int64    `json:"size"`        // logical bytes
	StoredSize int64    `json:"stored_size"` // without sparse runs
	SHA256     string   `json:"sha256"`      // of the stored bytes
	StoredPath string   `json:"stored_path"` // on the filestore
	Sparse     bool     `json:"sparse,omitempty"`
	Conflict   bool     `json:"conflict,omitempty"` // other bytes had come before, from an earlier start: these are the newest
	Mode       int64    `json:"mode,omitempty"`
	MTime      string   `json:"mtime,omitempty"` // RFC 3339, the file's own
	ATime      string   `json:"atime,omitempty"`
	CTime      string   `json:"ctime,omitempty"`
	BTime      string   `json:"btime,omitempty"`
	Finished   string   `json:"finished"` // RFC 3339, the node's clock
}

func (p *packet) takeBuffer(part *part, b *wirepb.FileBuffer) string {
	switch {
	case b.UploadNumber < 0 || b.UploadNumber >= filestore.MaxRow:
		return "upload number out of range"
	case b.Reference != "":
		return "upload stored elsewhere"
	case b.Offset > filestore.MaxRow:
		return "upload offset out of range"
	}
	data := b.Data
	if b.UncompressedLength > 0 {
		var err error
		if data, err = p.inflate(data, b.UncompressedLength, maxBuffer); err != nil {
			return "upload: " + err.Error()
		}
	}
	if len(data) > maxBuffer {
		return fmt.Sprintf("upload buffer of %d bytes", len(data))
	}
	var end *uploadEnd
	if b.Eof {
		var reason string
		if end, reason = endOf(b, int64(len(data))); reason != "" {
			return reason
		}
	}
	if len(data) > 0 {
		part.items = append(part.items, item{
			kind: dataItem, number: b.UploadNumber, data: data, size: int64(len(data)),
			batch: batch{int64(b.Offset), int64(len(data)), crc32.Checksum(data, castagnoli)},
		})
	}
	if end != nil {
		part.items = append(part.items, item{
			kind: endItem, number: b.UploadNumber, end: end, batch: batch{b.UploadNumber, 1, 0},
		})
	}
	return ""
}

// endOf reads the last buffer of an upload.
func endOf(b *wirepb.FileBuffer, length int64) (*uploadEnd, string) {
	components, reason := componentsOf(b.GetPathspec())
	if reason != "" {
		return nil, reason
	}
	e := &uploadEnd{
		number: b.UploadNumber, accessor: b.GetPathspec().GetAccessor(), components: components,
		source: b.GetPathspec().GetPath(), mtime: b.Mtime,
	}
	if len(e.accessor) > 100 {
		return nil, "accessor of an upload is too long"
	}
	if e.accessor == "" {
		e.accessor = "auto"
	}
	ranges := b.GetIndex().GetRanges()
	if len(ranges) == 0 {
		e.stored = max(int64(min(b.StoredSize, filestore.MaxRow)), int64(b.Offset)+length)
		e.size = e.stored
		return e, ""
	}
	if err := e.sparse(ranges, b.Size); err != nil {
		return nil, "upload: " + err.Error()
	}
	return e, ""
}

// sparse checks an index: in order, without overlap, data runs one after the
// other in the stored file, and no size that nobody can have.
func (e *uploadEnd) sparse(ranges []*wirepb.Range, size uint64) error {
	if len(ranges) > maxRanges || size > maxSparseSize {
		return fmt.Errorf("%d ranges, %d bytes: %w", len(ranges), size, errIndex)
	}
	var logical int64
	for i, r := range ranges {
		ok := r.Length >= 0 && r.OriginalOffset >= logical && r.OriginalOffset <= maxSparseSize &&
			r.Length <= maxSparseSize-r.OriginalOffset && (r.FileLength == 0 || r.FileLength == r.Length) &&
			(r.FileLength == 0 || r.FileOffset == e.stored)
		if !ok {
			return fmt.Errorf("range %d of %d: %w", i+1, len(ranges), errIndex)
		}
		e.stored += r.FileLength
		logical = r.OriginalOffset + r.Length
		e.index = append(e.index, filestore.Range{
			FileOffset: r.FileOffset, OriginalOffset: r.OriginalOffset, FileLength: r.FileLength, Length: r.Length,
		})
	}
	e.size = max(logical, int64(size))
	return nil
}

// componentsOf is the name an upload is stored under. What a client calls it
// never becomes a path here: the store escapes each component.
func componentsOf(s *wirepb.PathSpec) ([]string, string) {
	empty := func(c string) bool { return c == "" }
	components := slices.DeleteFunc(slices.Clone(s.GetComponents()), empty)
	if len(components) == 0 {
		split := func(r rune) bool { return r == '/' || r == '\\' }
		components = strings.FieldsFunc(s.GetPath(), split)
	}
	if len(components) == 0 {
		components = []string{"unnamed"}
	}
	total := 0
	for _, c := range components {
		total += len(c)
	}
	if len(components) > maxComponents || total > maxComponentText {
		return nil, fmt.Sprintf("upload name of %d components, %d bytes", len(components), total)
	}
	return components, ""
}

// uploadList is where the finished uploads of a flow are listed.
func (f *Flow) uploadList() filestore.Set {
	if h := f.Spec.Hunt; !h.IsZero() {
		return filestore.Set(path.Join(filestore.HuntDir(f.Org, h), UploadName))
	}
	return filestore.Set(path.Join(filestore.FlowDir(f.Org, f.Client, f.Flow), UploadName))
}

// row is the line that lists a stored upload.
func (e *uploadEnd) row(part *part, about *aboutUpload, stored *filestore.StoredUpload, now time.Time) (filestore.Append, error) {
	u := Upload{
		Number: e.number, Source: e.source, Accessor: e.accessor, Components: e.components,
		Size: e.size, StoredSize: stored.StoredSize, SHA256: stored.SHA256, StoredPath: stored.Path,
		Sparse: len(e.index) > 0, Conflict: stored.Conflict, MTime: fileTime(e.mtime), Finished: now.UTC().Format(time.RFC3339Nano),
	}
	if about != nil {
		u.describe(about)
	}
	return part.listed(UploadName, e.number, u)
}

// listed is a line of the list of uploads.
func (p *part) listed(name string, number int64, line any) (filestore.Append, error) {
	text, err := json.Marshal(line)
	if err != nil {
		return filestore.Append{}, fmt.Errorf("list upload %d of %s: %w", number, p.key.Flow, err)
	}
	if splice := p.splice(); splice != nil {
		text = slices.Concat([]byte("{"), splice, []byte(","), text[1:])
	}
	return filestore.Append{
		Set: p.f.uploadList(), Lines: append(text, '\n'),
		Extent: filestore.Extent{Client: p.key.Client, Flow: p.key.Flow, Name: name, FirstRow: number, Rows: 1},
	}, nil
}

// fileTime prints a client's file time. Unset times come as large negative
// numbers.
func fileTime(nanos int64) string {
	if nanos <= 0 {
		return ""
	}
	return time.Unix(0, nanos).UTC().Format(time.RFC3339Nano)
}
