package hunts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// ErrUnread means that rows or uploads of a collection are known but cannot be read
// here, now. Trying again may help.
var ErrUnread = errors.New("not all of the collection can be read")

// copiedFlows has the collections: *flows.Room.
type copiedFlows interface {
	// Flow returns a record, or flows.ErrNotFound.
	Flow(flows.Key) (*flows.Flow, error)

	// CopiedTo finds the copy of a collection that a hunt has.
	CopiedTo(flows.Key, ids.Hunt) (*flows.Flow, bool)

	// Uploads lists the finished uploads of a flow by number.
	Uploads(context.Context, flows.Key) ([]flows.Upload, error)

	// OpenStored opens the bytes of a listed upload, StoredIndex reads the index of a
	// sparse one.
	OpenStored(context.Context, *flows.Upload) (*filestore.UploadFile, error)
	StoredIndex(context.Context, *flows.Upload) ([]byte, error)
}

// CopierOptions wires a Copier. All are required.
type CopierOptions struct {
	Hunts       *Room
	Flows       copiedFlows
	Writer      importWriter
	Incarnation string // whose files Writer writes
	Files       Files
	Forget      func(ctx context.Context, dir string) // closes what Writer has open below a folder
}

// Copier adds collections to hunts that operators made by hand: it copies what the hunt
// takes of one into the hunt's files. Safe for concurrent use.
type Copier struct {
	o    CopierOptions
	busy chan struct{} // one for each copy that runs; full: ErrBusy
}

// NewCopier wires a copier.
func NewCopier(o CopierOptions) *Copier {
	return &Copier{o: o, busy: make(chan struct{}, maxImports)}
}

// CopyWish names a collection and the hunt that it is to be added to.
type CopyWish struct {
	Key
	Client    ids.Client
	Flow      ids.Flow
	Again     bool // also if the client erred in the hunt
	Principal string
}

// Copied is a collection whose copy is durable, and not yet the hunt's.
type Copied struct {
	flows.Key // of the copy
	Hunt      ids.Hunt
	Rows      int64
	Uploads   int64
	Mutation  *buspb.Mutation // makes it the hunt's
}

// Copy writes what a hunt takes of a collection into the hunt's files, under a flow id
// that nobody has: nobody is shown it until the mutation is applied. A collection that
// makes no sense for the hunt is ErrInvalid, one that has not ended
// flows.ErrUnfinished, a client that the hunt has ErrState, a collection that it has
// flows.ErrExists. After an error nothing is
// left that takes room by itself; rows stay in files that the hunt's clients share.
func (c *Copier) Copy(ctx context.Context, w CopyWish) (*Copied, error) {
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	default:
		return nil, fmt.Errorf("%d collections are being added: %w", maxImports, ErrBusy)
	}
	job, err := c.begin(w)
	if err == nil {
		err = job.store(ctx)
	}
	if err == nil {
		job.out.Mutation, err = flows.PlanCopy(job.copy, w.Principal)
	}
	if err == nil {
		return job.out, nil
	}
	err = fmt.Errorf("add flow %s of %s to hunt %s: %w", w.Flow, w.Client, w.Hunt, err)
	if job != nil {
		err = joined(err, c.Drop(ctx, job.out))
	}
	return nil, err
}

// begin checks a wish and says what is to be copied. Nothing is written yet.
func (c *Copier) begin(w CopyWish) (*copyJob, error) {
	h, err := c.o.Hunts.Hunt(w.Key)
	if err != nil {
		return nil, err
	}
	from, err := c.o.Flows.Flow(flows.Key{Org: w.Org, Client: w.Client, Flow: w.Flow})
	if err != nil {
		return nil, err
	}
	key := flows.Key{Org: w.Org, Client: w.Client, Flow: w.Hunt.NewCopy(time.Now())}
	job := &copyJob{o: &c.o, bulk: bulk{to: c.o.Writer}, from: from, hunt: w.Hunt, out: &Copied{Key: key, Hunt: w.Hunt}, copy: flows.Copy{
		Key: key, Hunt: w.Hunt, From: from, Incarnation: c.o.Incarnation, Again: w.Again,
	}}
	for _, name := range from.Spec.Results() {
		if slices.Contains(h.Results, name) {
			job.copy.Names = append(job.copy.Names, flows.Coverage{Name: name})
		}
	}
	for _, a := range from.Spec.Artifacts {
		if slices.ContainsFunc(h.Artifacts, func(of flows.Artifact) bool { return of.Name == a.Name }) {
			job.copy.Artifacts = append(job.copy.Artifacts, a)
		}
	}
	if len(job.copy.Names) == 0 {
		return nil, fmt.Errorf("the flow has none of the hunt's artifacts: %w", ErrInvalid)
	}
	if _, err := flows.PlanCopy(job.copy, w.Principal); err != nil { // before anything is written
		return nil, err
	}
	start := flows.HuntStart{Hunt: w.Hunt, Flow: key.Flow, Clients: []string{w.Client.String()}, Again: w.Again}
	if err := c.o.Hunts.mayAdd(w.Org, start); err != nil {
		return nil, err
	}
	if there, known := c.o.Flows.CopiedTo(from.Key, w.Hunt); known {
		return nil, fmt.Errorf("the hunt has it as %s: %w", there.Flow, flows.ErrExists)
	}
	return job, nil
}

// mayAdd says what MayStart would.
func (r *Room) mayAdd(org ids.Org, s flows.HuntStart) error {
	return r.MayStart(time.Time{}, org, []flows.HuntStart{s}) // a copy keeps no rate
}

// Drop removes a copy that is surely not the hunt's. It goes on when ctx ends.
func (c *Copier) Drop(ctx context.Context, out *Copied) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for _, dir := range flows.Dirs(out.Key) {
		c.o.Forget(ctx, dir)
		errs = append(errs, c.o.Files.Store.RemoveAll(ctx, dir))
	}
	hunt := Key{out.Org, out.Hunt}
	if _, gone := c.o.Hunts.forgotten(hunt); gone { // meanwhile: nobody else removes what was written since
		c.o.Forget(ctx, filestore.HuntDir(hunt.Org, hunt.Hunt))
		errs = append(errs, c.o.Hunts.RemoveTree(ctx, c.o.Files, hunt))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove a half copy, flow %s of %s: %w", out.Flow, out.Client, err)
	}
	return nil
}
