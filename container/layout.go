package container

import (
	"path"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/internal/archive"
)

// Version is that of the layout.
const Version = 1

// Names in a container.
const (
	ManifestName = "manifest.json"
	RecordName   = "collection.json" // of the offline collector
	FlowName     = "flow.json"       // the same record, of a flow on a server
	ClientName   = "client_info.json"
	LogsName     = "logs.jsonl"
	UploadsName  = "uploads.jsonl"
	MetadataName = "metadata.json"
	UploadsDir   = "uploads"
	IndexEnding  = archive.IndexEnding
)

// Kinds of members.
const (
	KindRecord   = "record"
	KindClient   = "client"
	KindMetadata = "metadata"
	KindRows     = "rows"  // of a result, as JSON lines
	KindTable    = "table" // the same rows as CSV
	KindLogs     = "logs"
	KindUploads  = "uploads" // the list of uploads, with the members that have their bytes
	KindFile     = archive.KindFile
	KindWhole    = archive.KindWhole
	KindIndex    = archive.KindIndex
)

// Forms in which rows are written.
const (
	FormatAll     = ""         // JSON lines and CSV
	FormatCSV     = "csv"      // the same
	FormatJSON    = "json"     // JSON lines alone
	FormatCSVOnly = "csv_only" // CSV alone: such a zip cannot be brought in
)

// KnownFormat reports whether format is one of the above.
func KnownFormat(format string) bool {
	return format == FormatAll || format == FormatCSV || format == FormatJSON || format == FormatCSVOnly
}

// Record says what ran, when, and how it went.
type Record struct {
	Client    string           `json:"client_id,omitempty"` // empty: an offline collector
	Hostname  string           `json:"hostname,omitempty"`
	Session   string           `json:"session_id"`
	Version   string           `json:"version,omitempty"` // of the program that collected
	Creator   string           `json:"creator,omitempty"`
	Artifacts []Artifact       `json:"artifacts"`
	Created   *time.Time       `json:"created,omitempty"`
	Started   *time.Time       `json:"started,omitempty"`
	Ended     *time.Time       `json:"ended,omitempty"`
	State     string           `json:"state"`
	Error     string           `json:"error,omitempty"`
	Results   []string         `json:"results"`
	Rows      map[string]int64 `json:"rows"`
	Uploads   int64            `json:"uploads"`
	LogErrors int              `json:"log_errors,omitempty"`
	CPU       *int64           `json:"cpu_ns,omitempty"` // processor time on the client; left out: not told
}

// Artifact is one collected artifact with the parameters that were set.
type Artifact struct {
	Name       string            `json:"artifact"`
	Parameters map[string]string `json:"parameters,omitempty"`
}

// Upload is a line of uploads.jsonl.
type Upload struct {
	Number     int64    `json:"number"`
	Source     string   `json:"source,omitempty"` // path on the client
	Accessor   string   `json:"accessor"`
	Components []string `json:"components"`
	Size       int64    `json:"size"`             // logical bytes
	StoredSize int64    `json:"stored_size"`      // without sparse runs
	SHA256     string   `json:"sha256,omitempty"` // of the stored bytes
	MD5        string   `json:"md5,omitempty"`
	Sparse     bool     `json:"sparse,omitempty"`
	Mode       int64    `json:"mode,omitempty"`
	MTime      string   `json:"mtime,omitempty"` // RFC 3339
	ATime      string   `json:"atime,omitempty"`
	CTime      string   `json:"ctime,omitempty"`
	BTime      string   `json:"btime,omitempty"`
	Error      string   `json:"error,omitempty"`
	Member     string   `json:"member"` // where the bytes are; empty: they are not there
}

// Manifest is the last member: what is in a container, and what is not.
type Manifest struct {
	Version  int       `json:"version"`
	Kind     string    `json:"kind"` // "collection"
	Exported time.Time `json:"exported"`
	Whole    bool      `json:"whole"` // no problem is known
	Format   string    `json:"format,omitempty"`
	Members  []Member  `json:"members"`
	Problems []Problem `json:"problems"`
}

// manifestKind tells these manifests from those of hunts.
const manifestKind = "collection"

// Member is one file of a container.
type Member struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Result string `json:"result,omitempty"` // whose rows it has
	Rows   int64  `json:"rows,omitempty"`
}

// Problem is something that is missing, doubtful or damaged.
type Problem struct {
	Path    string `json:"path,omitempty"`
	Problem string `json:"problem"`
}

// ResultBase is where a result's files lie, without their endings.
func ResultBase(result string) string {
	artifact, source, named := strings.Cut(result, "/")
	base := path.Join("results", filestore.EscapeName(artifact))
	if named {
		base = path.Join(base, filestore.EscapeName(source))
	}
	return base
}

// UploadPath is where an upload's bytes lie, escaped, so that they cannot leave the
// folder.
func UploadPath(accessor string, components []string) string {
	parts := []string{UploadsDir, filestore.EscapeName(accessor)}
	for _, component := range components {
		parts = append(parts, filestore.EscapeName(component))
	}
	if len(components) == 0 {
		parts = append(parts, filestore.EscapeName(""))
	}
	return path.Join(parts...)
}
