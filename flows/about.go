package flows

import (
	"slices"

	"raptorpack/filestore"
	"raptorpack/proto/wirepb"
)

// aboutName is the name of the extents in the list of uploads that tell what a
// client said of a file before it sent it. The file's last bytes may go to another
// node, which lists it without that.
const aboutName = "uploads.about"

// aboutUpload is what a client says of a file before it sends it. Times are unix
// nanoseconds, as the client gave them.
type aboutUpload struct {
	Number   int64  `json:"number"`
	Source   string `json:"source"`
	Accessor string `json:"accessor"`
	Size     int64  `json:"size"`
	MTime    int64  `json:"mtime_ns,omitempty"`
	ATime    int64  `json:"atime_ns,omitempty"`
	CTime    int64  `json:"ctime_ns,omitempty"`
	BTime    int64  `json:"btime_ns,omitempty"`
	Mode     int64  `json:"mode,omitempty"`
}

// bytes is about how much memory it takes.
func (a *aboutUpload) bytes() int64 { return int64(len(a.Source)+len(a.Accessor)) + 256 }

func (p *packet) takeTransaction(part *part, t *wirepb.UploadTransaction) string {
	if t.UploadId < 0 || t.UploadId >= filestore.MaxRow {
		return "upload number out of range"
	}
	if t.Response != "" {
		return "" // the client's own account of an upload that its buffers tell
	}
	part.about = append(part.about, &aboutUpload{
		Number: t.UploadId, Source: shorten(t.Filename, maxComponentText), Accessor: shorten(t.Accessor, 100),
		Size: t.ExpectedSize, MTime: t.Mtime, ATime: t.Atime, CTime: t.Ctime, BTime: t.Btime, Mode: t.Mode,
	})
	return ""
}

// reserveAbout keeps what a client says of uploads to come: in memory within
// bounds, and once per upload in the list, unless the upload ends in this packet.
func (p *packet) reserveAbout(part *part, l *local, commit *filestore.Commit) {
	for _, a := range part.about {
		if l.ends.have.Has(a.Number, a.Number+1) || p.tooMany(part, l, a.Number) != "" {
			continue
		}
		u := l.upload(a.Number)
		l.forgetAbout(u)
		if l.aboutBytes+a.bytes() <= maxAboutBytes {
			u.about = a
			l.aboutBytes += a.bytes()
		}
		ends := slices.ContainsFunc(part.items, func(i item) bool { return i.kind == endItem && i.number == a.Number })
		if ends && u.about != nil || u.told {
			continue
		}
		line, err := part.listed(aboutName, a.Number, a)
		if err != nil {
			p.room.log.Error("upload cannot be described", "client", p.peer.Client.String(), "err", err)
			continue
		}
		u.told = true
		part.listing = append(part.listing, u)
		commit.Appends = append(commit.Appends, line)
	}
}

func (p *part) settleAbout(durable bool) {
	for _, u := range p.listing {
		u.told = durable
	}
	p.listing = nil
}

// describe adds what the client said before.
func (u *Upload) describe(a *aboutUpload) {
	u.Source, u.Mode = a.Source, a.Mode
	u.ATime, u.CTime, u.BTime = fileTime(a.ATime), fileTime(a.CTime), fileTime(a.BTime)
	if u.MTime == "" {
		u.MTime = fileTime(a.MTime)
	}
}

// bare reports that nothing the client said before is known.
func (u *Upload) bare() bool { return u.Mode == 0 && u.ATime == "" && u.CTime == "" && u.BTime == "" }
