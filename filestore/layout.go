package filestore

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"raptorpack/ids"
)

// Set names a directory that holds one segment per incarnation: the rows of one
// result of a flow, of a hunt, of one day of events. Sets come from the
// functions below only; a Set is a clean path relative to the store's root.
type Set string

const (
	segmentSuffix = ".jsonl.gz"

	// maxSetPath bounds the part of a path that foreign names make up, in
	// bytes. Longer ones are named by their hash (a path has 4,096 bytes at
	// most, everywhere).
	maxSetPath = 1000

	maxSetNumber = 1 << 30 // parts of one segment
)

// String returns the path.
func (s Set) String() string { return string(s) }

// orgDir is the directory of an org, "" for the root org.
func orgDir(org ids.Org) string {
	if org == ids.RootOrg {
		return ""
	}
	return "orgs/" + EscapeName(org.String())
}

// ClientDir is the directory of a client: clients/<2 hex>/<2 hex>/C.…, by the
// first digits of its id, so that no directory has more than 256 entries until
// there are millions of clients. The server's pseudo client lies in 00/00.
func ClientDir(org ids.Org, c ids.Client) string {
	id := c.String()
	a, b := "00", "00"
	if strings.HasPrefix(id, "C.") && len(id) >= 6 {
		a, b = id[2:4], id[4:6]
	}
	return path.Join(orgDir(org), "clients", a, b, EscapeName(id))
}

// FlowDir is the directory of a direct collection: its view flow.json, results
// and logs.
func FlowDir(org ids.Org, c ids.Client, f ids.Flow) string {
	return path.Join(ClientDir(org, c), "collections", EscapeName(f.String()))
}

// FlowUploadsDir is the directory of what one flow uploaded, in direct
// collections and hunts alike.
func FlowUploadsDir(org ids.Org, c ids.Client, f ids.Flow) string {
	return path.Join(ClientDir(org, c), "uploads", EscapeName(f.String()))
}

// HuntDir is the directory of a hunt: its view hunt.json and three kinds of
// sets.
func HuntDir(org ids.Org, h ids.Hunt) string {
	return path.Join(orgDir(org), "hunts", EscapeName(h.String()))
}

// PublicFile is where a file lies that anybody may fetch who knows its name.
func PublicFile(org ids.Org, name string) string {
	return path.Join(orgDir(org), "public", EscapeName(name))
}

// FlowDownloadsDir is where the zips lie that were made of a flow for people to fetch.
func FlowDownloadsDir(org ids.Org, c ids.Client, f ids.Flow) string {
	return path.Join(orgDir(org), DownloadsTop, EscapeName(c.String()), EscapeName(f.String()))
}

// HuntDownloadsDir is where those of a hunt lie.
func HuntDownloadsDir(org ids.Org, h ids.Hunt) string {
	return path.Join(orgDir(org), DownloadsTop, "hunts", EscapeName(h.String()))
}

// DownloadsTop is the folder of an org that holds the zips that were made of flows and
// hunts. They are copies: nothing is lost with them.
const DownloadsTop = "downloads"

// FlowResults is where the rows of one result of a direct collection lie. The
// name is "Artifact" or "Artifact/Source".
func FlowResults(org ids.Org, c ids.Client, f ids.Flow, name string) Set {
	return Set(path.Join(FlowDir(org, c, f), "results", resultPath(name)))
}

// FlowLogs is where the query log of a direct collection lies.
func FlowLogs(org ids.Org, c ids.Client, f ids.Flow) Set {
	return Set(path.Join(FlowDir(org, c, f), "logs"))
}

// HuntResults is where the rows of all clients of a hunt lie, per result name.
func HuntResults(org ids.Org, h ids.Hunt, name string) Set {
	return Set(path.Join(HuntDir(org, h), "results", resultPath(name)))
}

// HuntFlows is where the flow records of all clients of a hunt lie.
func HuntFlows(org ids.Org, h ids.Hunt) Set { return Set(path.Join(HuntDir(org, h), "flows")) }

// HuntLogs is where the query logs of all clients of a hunt lie.
func HuntLogs(org ids.Org, h ids.Hunt) Set { return Set(path.Join(HuntDir(org, h), "logs")) }

// Events is where the rows of one event artifact lie that came on one day, UTC.
func Events(org ids.Org, name string, day time.Time) Set {
	return Set(path.Join(orgDir(org), "events", resultPath(name), day.UTC().Format(time.DateOnly)))
}

// EventLogs is where the query log of one event artifact lies, by day, UTC.
func EventLogs(org ids.Org, name string, day time.Time) Set {
	return Set(path.Join(orgDir(org), "eventlogs", resultPath(name), day.UTC().Format(time.DateOnly)))
}

// NotebookDir is the directory of what a notebook has.
func NotebookDir(org ids.Org, n ids.Notebook) string {
	return path.Join(orgDir(org), NotebooksTop, EscapeName(n.String()))
}

// NotebooksTop is the folder of an org that holds what notebooks have.
const NotebooksTop = "notebooks"

// TimelineRows is where the rows of one child of a super timeline lie. The folder is a
// name of ours and begins with "~", which no escaped name does.
func TimelineRows(org ids.Org, n ids.Notebook, timeline, folder string) Set {
	return Set(path.Join(NotebookDir(org, n), "timelines", EscapeName(timeline), folder))
}

// DeadLetters is where messages lie that can never be processed.
func DeadLetters(org ids.Org) Set { return Set(path.Join(orgDir(org), "deadletters")) }

// resultPath is Artifact or Artifact/Source, escaped.
func resultPath(name string) string {
	artifact, source, cut := strings.Cut(name, "/")
	out := EscapeName(artifact)
	if cut {
		out += "/" + EscapeName(source)
	}
	if len(out) > maxSetPath {
		sum := sha256.Sum256([]byte(name))
		out = "%long/" + hex.EncodeToString(sum[:])
	}
	return out
}

// segmentName is the file of an incarnation's part in a set. Part 0 has the
// bare name. The separator is "_" because node names may hold "-" and digits.
func segmentName(incarnation string, part int) string {
	return partName(incarnation, part) + segmentSuffix
}

func partName(incarnation string, part int) string {
	if part == 0 {
		return incarnation
	}
	return incarnation + "_" + strconv.Itoa(part)
}

// segmentID is a segment's name taken apart. It orders segments.
type segmentID struct {
	node string
	n    uint64
	part int
}

// SegmentIncarnation returns the incarnation that owns the segment at path, empty
// if the path is no segment's.
func SegmentIncarnation(segment string) string {
	id, ok := parseSegmentName(path.Base(segment))
	if !ok {
		return ""
	}
	return id.incarnation()
}

// parseSegmentName reads a name that segmentName made; false means that the
// file is none of ours.
func parseSegmentName(name string) (segmentID, bool) {
	base, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return segmentID{}, false
	}
	return parsePartName(base)
}

func parsePartName(base string) (segmentID, bool) {
	var id segmentID
	incarnation, tail, parted := strings.Cut(base, "_")
	if parted {
		k, err := strconv.Atoi(tail)
		if err != nil || k < 1 || k > maxSetNumber || strconv.Itoa(k) != tail {
			return segmentID{}, false
		}
		id.part = k
	}
	dash := strings.LastIndexByte(incarnation, '-')
	if dash < 1 {
		return segmentID{}, false
	}
	n, err := strconv.ParseUint(incarnation[dash+1:], 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != incarnation[dash+1:] {
		return segmentID{}, false
	}
	if _, err := ids.ParseNode(incarnation[:dash]); err != nil {
		return segmentID{}, false
	}
	id.node, id.n = incarnation[:dash], n
	return id, true
}

// incarnation is the owner's name.
func (s segmentID) incarnation() string { return fmt.Sprintf("%s-%d", s.node, s.n) }

// compare orders by node, run, part.
func (s segmentID) compare(t segmentID) int {
	switch {
	case s.node != t.node:
		return strings.Compare(s.node, t.node)
	case s.n != t.n:
		return cmp.Compare(s.n, t.n)
	default:
		return cmp.Compare(s.part, t.part)
	}
}

// checkSet refuses a Set that the functions here did not make.
func checkSet(s Set) error {
	if s == "" || s == "." || !fs.ValidPath(string(s)) || strings.ContainsRune(string(s), 0) {
		return fmt.Errorf("set %.200q: %w", string(s), ErrBadAppend)
	}
	return nil
}
