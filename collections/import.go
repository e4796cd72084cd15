package collections

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"raptorpack/container"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
)

// importWriter makes rows and uploads durable: *filestore.Committer.
type importWriter interface {
	Submit(ctx context.Context, commit *filestore.Commit) error
	FinishUpload(ctx context.Context, f filestore.UploadFinish) (*filestore.StoredUpload, error)
}

// Imported is what an import wrote.
type Imported struct {
	Arrival  flows.Arrival       // to be recorded
	Info     []byte              // what the container says of its host: one object, or nil
	Skipped  []container.Problem // uploads that it does not have whole
	Problems []container.Problem // that it tells itself, or that are of no use here
}

// Rows counts the rows of all results.
func (i *Imported) Rows() (n int64) {
	for _, r := range i.Arrival.Rows {
		n += r.Rows
	}
	return n
}

const (
	importBytes = 8 << 20 // of a commit: as much as the bulk lane does not wait with
	importParts = 500
	uploadPiece = 4 << 20
)

// arriving is one import under way.
type arriving struct {
	from   *container.Reader
	writer importWriter
	out    *Imported

	commit filestore.Commit // not submitted yet
	size   int
	text   []byte // lines that are not put yet
	next   int64  // number of the first of them
}

// store writes what a container has as the flow of out.Arrival.
func (a *arriving) store(ctx context.Context) error {
	key := a.out.Arrival.Key
	for _, result := range a.from.Results {
		set := filestore.FlowResults(key.Org, key.Client, key.Flow, result.Name)
		rows, err := a.lines(ctx, set, result.Name, func(each func([]byte) error) error { return a.from.Lines(ctx, result.Member, each) })
		if err != nil {
			return err
		}
		a.out.Arrival.Rows = append(a.out.Arrival.Rows, flows.ArrivedRows{Name: result.Name, Rows: rows})
	}
	var err error
	a.out.Arrival.Logs, err = a.lines(ctx, filestore.FlowLogs(key.Org, key.Client, key.Flow), flows.LogName, func(each func([]byte) error) error {
		return a.from.Logs(ctx, each)
	})
	if err != nil {
		return err
	}
	numbers := map[int64]bool{}
	err = a.from.Uploads(ctx, func(u *container.Upload) error {
		if numbers[u.Number] {
			return fmt.Errorf("upload %d is there twice: %w", u.Number, container.ErrUnsound)
		}
		numbers[u.Number] = true
		return a.upload(ctx, u)
	})
	if err != nil {
		return err
	}
	slices.SortFunc(a.out.Arrival.Uploads, func(x, y flows.UploadSize) int { return cmp.Compare(x.Number, y.Number) })
	return a.flush(ctx)
}

// lines stores lines as rows numbered from 0, and returns how many there are.
func (a *arriving) lines(ctx context.Context, set filestore.Set, name string, each func(func([]byte) error) error) (int64, error) {
	a.next, a.text = 0, nil
	err := each(func(line []byte) error {
		if len(a.text) > 0 && len(a.text)+len(line) >= filestore.MaxMemberBytes {
			if err := a.put(ctx, set, name); err != nil {
				return err
			}
		}
		a.text = append(append(a.text, line...), '\n')
		return nil
	})
	if err == nil {
		err = a.put(ctx, set, name)
	}
	return a.next, err
}

// put checks the lines that are gathered and has them stored.
func (a *arriving) put(ctx context.Context, set filestore.Set, name string) error {
	chunks, _, err := flows.ReadLines(a.text)
	if err != nil {
		return fmt.Errorf("behind row %d: %w: %w", a.next, container.ErrUnsound, err)
	}
	key := a.out.Arrival.Key
	for _, c := range chunks {
		e := filestore.Extent{Client: key.Client, Flow: key.Flow, Name: name, FirstRow: a.next, Rows: c.Rows}
		if err := a.add(ctx, filestore.Append{Set: set, Extent: e, Lines: c.Text}); err != nil {
			return err
		}
		a.next += c.Rows
	}
	a.text = nil // it belongs to the commit now
	return nil
}

func (a *arriving) add(ctx context.Context, one filestore.Append) error {
	a.commit.Appends = append(a.commit.Appends, one)
	if a.size += len(one.Lines); a.size < importBytes && len(a.commit.Appends) < importParts {
		return nil
	}
	return a.flush(ctx)
}

func (a *arriving) flush(ctx context.Context) error {
	if len(a.commit.Appends) == 0 {
		return nil
	}
	commit := a.commit
	commit.Class = filestore.Bulk
	a.commit, a.size = filestore.Commit{}, 0
	return a.writer.Submit(ctx, &commit)
}

// describe fills in what a record says, as far as it is sound.
func (i *Imported) describe(r *container.Record) {
	a := &i.Arrival
	a.Origin.Session, a.Origin.Hostname, a.Origin.Created = cut(r.Session), cut(r.Hostname), r.Created
	for _, one := range r.Artifacts {
		named := flows.Artifact{Name: text(one.Name)}
		for _, name := range slices.Sorted(maps.Keys(one.Parameters)) {
			named.Parameters = append(named.Parameters, flows.Parameter{Name: text(name), Value: text(one.Parameters[name])})
		}
		a.Artifacts = append(a.Artifacts, named)
	}
	if r.State != "completed" {
		a.Error = text(cmp.Or(r.Error, "it was "+cmp.Or(r.State, "not finished")+" where it ran"))
	}
	a.CPU = r.CPU
	if r.Started != nil {
		a.Started = r.Started.UTC()
		if r.Ended != nil && r.Ended.After(*r.Started) {
			a.Duration = min(r.Ended.Sub(*r.Started), maxDuration)
		}
	}
	if a.Origin.Created == nil {
		a.Origin.Created = r.Started
	}
}

// maxDuration bounds what a container may say of how long it took.
const maxDuration = 365 * 24 * time.Hour

// text is a stranger's text as valid UTF-8.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// cut bounds a stranger's name.
func cut(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	return strings.ToValidUTF8(s, "")
}

// hostOf is the host that a container is from; empty if it does not say.
func hostOf(r *container.Reader) string { return strings.TrimSpace(r.Record.Hostname) }

// clientOf finds the client that a container becomes a flow of.
func clientOf(wish Wish, r *container.Reader) (ids.Client, error) {
	if wish.Client != "" && wish.Client != Auto {
		return ids.ParseClient(wish.Client)
	}
	host := strings.TrimSpace(cmp.Or(wish.Hostname, hostOf(r)))
	if host == "" {
		return ids.Client{}, fmt.Errorf("the zip does not name its host: name it, or a client: %w", ErrInvalid)
	}
	return ids.ClientOfHost(host), nil
}

// copyUpload reads an upload in pieces.
func copyUpload(in io.Reader, put func(offset int64, piece []byte) error) error {
	for offset := int64(0); ; {
		piece := make([]byte, uploadPiece)
		n, err := io.ReadFull(in, piece)
		if n > 0 {
			if err := put(offset, piece[:n]); err != nil {
				return err
			}
			offset += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", container.ErrUnsound, err)
		}
	}
}
