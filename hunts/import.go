package hunts

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/jsonrow"
)

// importWriter makes rows and uploads durable: *filestore.Committer.
type importWriter interface {
	Submit(ctx context.Context, commit *filestore.Commit) error
	FinishUpload(ctx context.Context, f filestore.UploadFinish) (*filestore.StoredUpload, error)
}

// ImportTarget says what a zip is to become.
type ImportTarget struct {
	Org    ids.Org
	Hunt   ids.Hunt // an id that nobody uses; zero: a new one
	Writer importWriter
}

// Imported is what an import wrote.
type Imported struct {
	Hunt     ids.Hunt
	Origin   *HuntFile // the hunt where it came from
	Manifest *Manifest // of the zip, with the problems that it tells
	Rows     int64     // of results
	Logs     int64
	Uploads  int64
	Uploaded []flows.Key  // whose uploads were written, for who removes an import that failed
	Skipped  []ZipProblem // uploads that the zip does not have whole
}

// Import stores what a hunt's zip has under a new hunt: rows, logs, uploads and the
// records of its flows, by the same clients; flow ids become those of the new hunt.
// Rows keep their bytes, so their column FlowId says what the flow was called where it
// ran. Row numbers are kept, so that what was missing is missing here too.
//
// A zip that is not sound (see Verify) is ErrBadArchive before anything is written.
// After another error part of it may be there under Imported.Hunt; trying again takes
// a new hunt. Recording the hunt is left to the caller, to be done last.
func Import(ctx context.Context, r io.ReaderAt, size int64, target ImportTarget) (*Imported, error) {
	if target.Hunt.IsZero() {
		target.Hunt = ids.NewHunt(time.Now())
	}
	i := &importer{target: target, out: &Imported{Hunt: target.Hunt}, bulk: bulk{to: target.Writer}}
	if err := i.open(ctx, r, size); err != nil {
		return i.out, fmt.Errorf("import hunt: %w", err)
	}
	for at := range i.archive.manifest.Members {
		if err := i.member(ctx, &i.archive.manifest.Members[at]); err != nil {
			return i.out, fmt.Errorf("import hunt %s: %w", i.from, err)
		}
	}
	return i.out, nil
}

// importer is one import.
type importer struct {
	target  ImportTarget
	archive *opened
	from    ids.Hunt // what the hunt was called
	out     *Imported
	bulk
}

// open checks the zip and reads what hunt it has.
func (i *importer) open(ctx context.Context, r io.ReaderAt, size int64) error {
	v, err := Verify(ctx, r, size)
	if err != nil {
		return err
	}
	if len(v.Findings) > 0 {
		f := v.Findings[0]
		return fmt.Errorf("%.200s: %s, and %d more: %w", f.Path, f.Problem, len(v.Findings)-1, ErrBadArchive)
	}
	if i.archive, err = openArchive(r, size); err != nil {
		return err
	}
	if i.archive.manifest.Options.Format == FormatCSVOnly {
		return fmt.Errorf("its rows are CSV only: %w", ErrBadArchive)
	}
	i.out.Manifest, i.out.Origin = i.archive.manifest, new(HuntFile)
	data, err := i.archive.read(huntName, maxManifest)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, i.out.Origin); err != nil {
		return fmt.Errorf("%s: %w: %w", huntName, ErrBadArchive, err)
	}
	if i.from, err = ids.ParseHunt(i.out.Origin.Hunt); err != nil || !i.from.Plain() {
		return fmt.Errorf("hunt %.60q: %w", i.out.Origin.Hunt, ErrBadArchive)
	}
	return nil
}

func (i *importer) member(ctx context.Context, m *ZipMember) error {
	key := Key{i.target.Org, i.target.Hunt}
	var err error
	switch m.Kind {
	case kindRows:
		if !slices.Contains(i.out.Origin.Results, m.Result) {
			return fmt.Errorf("%.200s has rows of %.100q, which the hunt does not have: %w", m.Path, m.Result, ErrBadArchive)
		}
		err = i.rows(ctx, m, filestore.HuntResults(key.Org, key.Hunt, m.Result), &i.out.Rows)
	case kindLogs:
		err = i.rows(ctx, m, filestore.HuntLogs(key.Org, key.Hunt), &i.out.Logs)
	case kindAbout:
		err = i.rows(ctx, m, uploadSet(key), new(int64))
	case kindClients:
		err = i.flows(ctx, m, filestore.HuntFlows(key.Org, key.Hunt))
	case kindUploads:
		err = i.uploads(ctx, m, key)
	}
	if err == nil {
		err = i.flush(ctx)
	}
	if err != nil {
		return fmt.Errorf("%.200s: %w", m.Path, err)
	}
	return nil
}

// rows stores the lines of a member as those batches that it was made of.
func (i *importer) rows(ctx context.Context, m *ZipMember, set filestore.Set, count *int64) error {
	base, ok := strings.CutSuffix(m.Path, ".jsonl")
	if !ok {
		return fmt.Errorf("not named as rows are: %w", ErrBadArchive)
	}
	batches, err := i.archive.open(base + ".batches.jsonl")
	if err != nil {
		return err
	}
	defer batches.Close()
	file, err := i.archive.open(m.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines, next := newLineReader(file), json.NewDecoder(batches)
	for {
		var b zipBatch
		if err := next.Decode(&b); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("batches: %w: %w", ErrBadArchive, err)
		}
		if err := i.batch(ctx, &b, lines, set); err != nil {
			return err
		}
		*count += b.Rows
	}
	if _, err := lines.next(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("more lines than its batches have: %w", ErrBadArchive)
	}
	return nil
}

// batch stores the lines of one batch, in pieces if they are many.
func (i *importer) batch(ctx context.Context, b *zipBatch, lines *lineReader, set filestore.Set) error {
	e, err := i.extent(b.Client, b.Flow, b.Name)
	if err != nil {
		return err
	}
	if e.FirstRow = b.First; b.Rows < 1 || b.First < 0 || b.First > filestore.MaxRow-b.Rows {
		return fmt.Errorf("%d rows from %d: %w", b.Rows, b.First, ErrBadArchive)
	}
	var text []byte
	for left := b.Rows; left > 0; left-- {
		line, err := lines.next()
		if err != nil {
			return fmt.Errorf("fewer lines than its batches have: %w: %w", ErrBadArchive, err)
		}
		if !json.Valid(line) || line[0] != '{' || string(jsonrow.Column(line, "ClientId")) != `"`+b.Client+`"` {
			return fmt.Errorf("a line is no row of %.60s: %w", b.Client, ErrBadArchive)
		}
		text = append(append(text, line...), '\n')
		if e.Rows++; left > 1 && len(text) < filestore.MaxMemberBytes {
			continue
		}
		if err := i.put(ctx, set, e, text); err != nil {
			return err
		}
		e.FirstRow, e.Rows, text = e.FirstRow+e.Rows, 0, nil
	}
	return nil
}

// extent is where rows of a client belong here.
func (i *importer) extent(client, flow, name string) (filestore.Extent, error) {
	c, err := ids.ParseClient(client)
	if err != nil {
		return filestore.Extent{}, fmt.Errorf("%w: %w", ErrBadArchive, err)
	}
	f, err := ids.ParseFlow(flow)
	if err != nil {
		return filestore.Extent{}, fmt.Errorf("%w: %w", ErrBadArchive, err)
	}
	here := flowHere(f, i.from, i.target.Hunt)
	if here.IsZero() || len(name) > filestore.MaxNameBytes {
		return filestore.Extent{}, fmt.Errorf("rows %.60q of flow %s are none of hunt %s: %w", name, f, i.from, ErrBadArchive)
	}
	return filestore.Extent{Client: c, Flow: here, Name: name}, nil
}

// flowHere is what a flow of a hunt is called as one of another; none if it is not the
// first hunt's.
func flowHere(f ids.Flow, from, to ids.Hunt) ids.Flow {
	if attempt, ok := f.Attempt(from); ok {
		return to.Flow(attempt)
	}
	if stamp, ok := f.Copied(from); ok {
		return to.Copy(stamp)
	}
	return ids.Flow{}
}

// flows stores the records of the flows.
func (i *importer) flows(ctx context.Context, m *ZipMember, set filestore.Set) error {
	file, err := i.archive.open(m.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	for lines := newLineReader(file); ; {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		var c ClientLine
		if err == nil {
			err = json.Unmarshal(line, &c)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrBadArchive, err)
		}
		if c.FlowID == "" {
			continue // it had not begun
		}
		if err := i.record(ctx, set, &c); err != nil {
			return err
		}
	}
}

// importedFlows is the name of the extents in the file of a hunt's flows that tell what
// became of them where they ran.
const importedFlows = "imported"

func (i *importer) record(ctx context.Context, set filestore.Set, c *ClientLine) error {
	e, err := i.extent(c.ClientID, c.FlowID, importedFlows)
	if err != nil {
		return err
	}
	c.FlowID, e.Rows = e.Flow.String(), 1
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return i.put(ctx, set, e, append(line, '\n'))
}

// lineReader reads lines of bounded length.
type lineReader struct {
	r    *bufio.Reader
	line []byte
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, exportBuffer)}
}

// next returns a line without its end, valid until the next one; io.EOF after the
// last.
func (l *lineReader) next() ([]byte, error) {
	l.line = l.line[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		l.line = append(l.line, part...)
		switch {
		case len(l.line) > filestore.MaxRowBytes:
			return nil, fmt.Errorf("line of more than %d bytes: %w", filestore.MaxRowBytes, ErrBadArchive)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(l.line) > 0:
			return nil, fmt.Errorf("last line has no end: %w", ErrBadArchive)
		case err != nil:
			return nil, err
		}
		return l.line[:len(l.line)-1], nil
	}
}
