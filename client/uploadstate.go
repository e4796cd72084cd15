package client

// upload is the durable state of one upload of a flow. Its number is unique
// within the flow; a re-run finds it again by Key.
type upload struct {
	ID         int64    `json:"id"`
	Query      int      `json:"query"`
	Key        string   `json:"key"`                // query, accessor, source and stored name
	Filename   string   `json:"filename,omitempty"` // names go when it is Done
	Accessor   string   `json:"accessor,omitempty"`
	StoreAs    string   `json:"store_as,omitempty"`
	Components []string `json:"components,omitempty"`
	Size       int64    `json:"size"`
	ModTime    int64    `json:"mtime,omitempty"` // nanoseconds since 1970; 0: unknown
	Mode       int64    `json:"mode,omitempty"`
	Deferred   bool     `json:"deferred,omitempty"` // runs beside the query (client protocol 9.7)

	// What of it is in the buffer or beyond: stored bytes, their CRC32C, and
	// the states of both hashes, so that a resumed upload need not hash again.
	Offset int64  `json:"offset,omitempty"`
	Sum    uint32 `json:"sum,omitempty"`
	SHA256 []byte `json:"sha256,omitempty"`
	MD5    []byte `json:"md5,omitempty"`

	Done   bool   `json:"done,omitempty"`
	Result string `json:"result,omitempty"` // JSON of the upload's result
}

// uploadMark is what one buffered message says about an upload.
type uploadMark struct {
	ID     int64   `json:"id"`
	Begin  *upload `json:"begin,omitempty"`
	Offset int64   `json:"o,omitempty"`
	Sum    uint32  `json:"s,omitempty"`
	SHA256 []byte  `json:"h,omitempty"`
	MD5    []byte  `json:"m,omitempty"`
	Data   bool    `json:"d,omitempty"` // Offset, Sum and hash states are meant
	Done   bool    `json:"e,omitempty"`
	Result string  `json:"r,omitempty"`
}

func (u *upload) fold(m *uploadMark) {
	if m.Begin != nil {
		*u = *m.Begin
	}
	if m.Data {
		u.Offset, u.Sum, u.SHA256, u.MD5 = m.Offset, m.Sum, m.SHA256, m.MD5
	}
	if m.Done { // the result has the names; a flow may have 100,000 of these
		u.Done, u.Result = true, m.Result
		u.Filename, u.Accessor, u.StoreAs, u.Components = "", "", "", nil
		u.SHA256, u.MD5 = nil, nil
	}
}
