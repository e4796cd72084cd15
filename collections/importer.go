package collections

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"raptorpack/clients"
	"raptorpack/container"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/archive"
)

// Auto has the client made from the name of the host that a container is from, see
// ids.ClientOfHost.
const Auto = "auto"

// maxImports bounds the imports that run at the same time; one more is ErrBusy.
const maxImports = 2

// Wish says what a container is to become.
type Wish struct {
	Org      ids.Org
	Client   string // an id, Auto or empty, which is the same
	Hostname string // for Auto; empty: as the container says
	Password string
	Creator  string // who brings it in
}

// ImporterOptions wires an Importer. All are required.
type ImporterOptions struct {
	Writer      importWriter
	Incarnation string // whose files Writer writes
	Store       *filestore.Store
	Flows       *flows.Room
	Clients     *clients.Room
	Forget      func(ctx context.Context, dir string) // closes what Writer has open below a folder

	// Scratch is a folder on a local disk for the zip while it is read. The file has no
	// name there, so nothing is left behind by a crash.
	Scratch string
}

// Importer takes in collections that were made elsewhere. Safe for concurrent use.
type Importer struct {
	o    ImporterOptions
	busy chan struct{} // one for each import that runs; full: ErrBusy
}

// NewImporter wires an importer.
func NewImporter(o ImporterOptions) *Importer {
	return &Importer{o: o, busy: make(chan struct{}, maxImports)}
}

// KnownError means that the same zip is a flow of the client already.
type KnownError struct{ Flow *flows.Flow }

// Error implements error.
func (e *KnownError) Error() string {
	return fmt.Sprintf("the zip is there as flow %s of %s", e.Flow.Flow, e.Flow.Client)
}

// Import reads a container to its end, checks it, and stores what it has under a new
// flow of a client, which is left to be recorded. Nothing is written of one that is not
// sound (container.ErrUnsound, archive.ErrPassword). A zip that the client has already
// is a KnownError. After an error nothing is left of it, unless the error says so.
func (i *Importer) Import(ctx context.Context, wish Wish, from io.Reader) (*Imported, error) {
	select {
	case i.busy <- struct{}{}:
		defer func() { <-i.busy }()
	default:
		return nil, fmt.Errorf("%d imports are under way: %w", maxImports, ErrBusy)
	}
	file, size, sum, err := i.spool(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("import collection: %w", err)
	}
	defer file.Close() // nobody reads it again
	r, err := container.Open(ctx, file, size, wish.Password)
	if err != nil {
		return nil, fmt.Errorf("import collection: %w", err)
	}
	out, err := i.admit(wish, r, sum)
	if err != nil {
		return nil, fmt.Errorf("import collection: %w", err)
	}
	if err := (&arriving{from: r, writer: i.o.Writer, out: out}).store(ctx); err != nil {
		err = fmt.Errorf("import collection for %s: %w", out.Arrival.Client, err)
		if also := i.Drop(ctx, out); also != nil {
			err = fmt.Errorf("%w; and %w", err, also)
		}
		return nil, err
	}
	return out, nil
}

// spool keeps a zip in a file without a name.
func (i *Importer) spool(ctx context.Context, from io.Reader) (_ *os.File, size int64, sum string, err error) {
	file, err := os.CreateTemp(i.o.Scratch, "import-*.zip")
	if err != nil {
		return nil, 0, "", err
	}
	hash := sha256.New()
	if err = os.Remove(file.Name()); err == nil {
		size, err = io.Copy(io.MultiWriter(file, hash), archive.WithContext(ctx, from))
	}
	if err != nil {
		return nil, 0, "", errors.Join(fmt.Errorf("after %d bytes of the zip: %w", size, err), file.Close())
	}
	return file, size, hex.EncodeToString(hash.Sum(nil)), nil
}

// admit finds out what a container becomes.
func (i *Importer) admit(wish Wish, r *container.Reader, sum string) (*Imported, error) {
	client, err := clientOf(wish, r)
	if err != nil {
		return nil, err
	}
	if _, err := i.o.Clients.Lookup(wish.Org, client); err != nil && wish.Client != "" && wish.Client != Auto {
		return nil, err
	}
	if f, known := i.o.Flows.ImportedFrom(wish.Org, client, sum); known {
		return nil, &KnownError{f}
	}
	out := &Imported{Info: r.Info, Problems: r.Problems, Arrival: flows.Arrival{
		Key:         flows.Key{Org: wish.Org, Client: client, Flow: ids.NewFlow(time.Now())},
		Incarnation: i.o.Incarnation, Creator: wish.Creator,
	}}
	out.describe(&r.Record)
	out.Arrival.Origin.SHA256 = sum
	if wish.Hostname != "" {
		out.Arrival.Origin.Hostname = cut(wish.Hostname)
	}
	return out, nil
}

// Drop removes an import that is surely not recorded. It goes on when ctx ends.
func (i *Importer) Drop(ctx context.Context, in *Imported) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for _, dir := range flows.Dirs(in.Arrival.Key) {
		i.o.Forget(ctx, dir)
		errs = append(errs, i.o.Store.RemoveAll(ctx, dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove a half import under flow %s of %s: %w", in.Arrival.Flow, in.Arrival.Client, err)
	}
	return nil
}
