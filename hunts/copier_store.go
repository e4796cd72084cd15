package hunts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
)

// copyJob is one copy under way.
type copyJob struct {
	o    *CopierOptions
	from *flows.Flow
	hunt ids.Hunt
	copy flows.Copy
	out  *Copied
	bulk
}

// store makes rows, log and uploads durable.
func (j *copyJob) store(ctx context.Context) error {
	org, from := j.from.Org, j.from.Key
	for i := range j.copy.Names {
		n := &j.copy.Names[i]
		set := filestore.FlowResults(org, from.Client, from.Flow, n.Name)
		var err error
		if n.Rows, err = j.lines(ctx, set, filestore.HuntResults(org, j.hunt, n.Name), n.Name); err != nil {
			return fmt.Errorf("rows of %s: %w", n.Name, err)
		}
		if err := whole(j.from.Covers(n.Name), n.Rows); err != nil {
			return fmt.Errorf("rows of %s: %w", n.Name, err)
		}
		j.out.Rows += n.Rows.Len()
	}
	logs, err := j.lines(ctx, flows.LogSet(from), filestore.HuntLogs(org, j.hunt), flows.LogName)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	j.copy.Logs = logs.Len()
	if err := j.uploads(ctx); err != nil {
		return err
	}
	return j.flush(ctx)
}

// whole refuses a copy that lacks some of what is known to be there.
func whole(want, have filestore.Intervals) error {
	for _, some := range want {
		if missing := have.Missing(some.Start, some.End); len(missing) > 0 {
			return fmt.Errorf("%s are missing: %w", missing, ErrUnread)
		}
	}
	return nil
}

// lines copies the rows of one set, each once, and returns which there are. Their
// column FlowId says what the collection is called.
func (j *copyJob) lines(ctx context.Context, set, to filestore.Set, name string) (have filestore.Intervals, err error) {
	from := j.from.Key
	p, _, err := j.o.Files.Reader.Pin(ctx, set, filestore.RowsFilter{Client: from.Client, Flow: from.Flow, Name: name}, "")
	if err != nil {
		return nil, err
	}
	_, err = p.Walk(ctx, 0, nil, func(b filestore.Batch) error {
		chunks, err := flows.SplicedLines(b.Lines, from.Client, from.Flow)
		if err != nil {
			return fmt.Errorf("behind row %d: %w", b.FirstRow, err)
		}
		first := b.FirstRow
		for _, c := range chunks {
			e := filestore.Extent{Client: j.out.Client, Flow: j.out.Flow, Name: name, FirstRow: first, Rows: c.Rows}
			if err := j.put(ctx, to, e, c.Text); err != nil {
				return err
			}
			first += c.Rows
		}
		have.Add(b.FirstRow, first)
		return nil
	})
	return have, err
}

// uploads copies all of a collection's uploads: they do not tell of which artifact they
// are.
func (j *copyJob) uploads(ctx context.Context) error {
	all, err := j.o.Flows.Uploads(ctx, j.from.Key)
	if err != nil {
		return err
	}
	var have filestore.Intervals
	for i := range all {
		have.Add(all[i].Number, all[i].Number+1)
		if err := j.upload(ctx, &all[i]); err != nil {
			return fmt.Errorf("upload %d: %w", all[i].Number, err)
		}
	}
	if err := whole(j.from.Uploads, have); err != nil {
		return fmt.Errorf("uploads: %w", err)
	}
	slices.SortFunc(j.copy.Uploads, func(a, b flows.UploadSize) int { return cmp.Compare(a.Number, b.Number) })
	j.out.Uploads = int64(len(all))
	return nil
}

func (j *copyJob) upload(ctx context.Context, u *flows.Upload) error {
	end := filestore.UploadFinish{
		Key:      filestore.UploadKey{Org: j.out.Org, Client: j.out.Client, Flow: j.out.Flow, Number: u.Number},
		Accessor: u.Accessor, Components: u.Components, Size: u.Size, StoredSize: u.StoredSize, Whole: true,
	}
	if u.Sparse {
		data, err := j.o.Flows.StoredIndex(ctx, u)
		if err != nil {
			return err
		}
		if end.Index, err = rangesOf(data); err != nil {
			return fmt.Errorf("its index: %w: %w", filestore.ErrDamaged, err)
		}
	}
	if err := j.bytes(ctx, end.Key, u); err != nil {
		return err
	}
	stored, err := j.to.FinishUpload(ctx, end)
	if err != nil {
		return err
	}
	if stored.SHA256 != u.SHA256 {
		return fmt.Errorf("has SHA-256 %s, not %s: %w", stored.SHA256, u.SHA256, filestore.ErrDamaged)
	}
	j.copy.Uploads = append(j.copy.Uploads, flows.UploadSize{Number: u.Number, Bytes: stored.StoredSize})
	u.StoredPath = stored.Path
	line, err := uploadRow(u, j.out.Client, j.out.Flow) // where its bytes are
	if err != nil {
		return err
	}
	e := filestore.Extent{Client: j.out.Client, Flow: j.out.Flow, Name: flows.UploadName, FirstRow: u.Number, Rows: 1}
	return j.put(ctx, uploadSet(Key{j.out.Org, j.hunt}), e, line)
}

// bytes copies the stored bytes of an upload.
func (j *copyJob) bytes(ctx context.Context, to filestore.UploadKey, u *flows.Upload) error {
	file, err := j.o.Flows.OpenStored(ctx, u)
	if err != nil {
		return err
	}
	read, err := storeBytes(ctx, j.to, to, file.Stored(ctx))
	return errors.Join(read, err, file.Close(ctx))
}
