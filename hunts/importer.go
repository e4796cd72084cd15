package hunts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"raptorpack/filestore"
	"raptorpack/ids"
)

// maxImports bounds the imports that run at the same time; one more is ErrBusy.
const maxImports = 2

// ImporterOptions wires an Importer. All are required.
type ImporterOptions struct {
	Writer importWriter
	Files  Files
	Forget func(ctx context.Context, dir string) // closes what Writer has open below a folder

	// Scratch is a folder on a local disk for the zip while it is read. The file has no
	// name there, so nothing is left behind by a crash.
	Scratch string
}

// Importer takes in zips of hunts from operators. Safe for concurrent use.
type Importer struct {
	o    ImporterOptions
	busy chan struct{} // one for each import that runs; full: ErrBusy
}

// NewImporter wires an importer.
func NewImporter(o ImporterOptions) *Importer {
	return &Importer{o: o, busy: make(chan struct{}, maxImports)}
}

// Import reads a zip to its end, checks it and stores what it has under a new hunt,
// which is left to be recorded. It returns the SHA-256 of the zip, in hex. After an
// error nothing is left of it, unless the error says so.
func (i *Importer) Import(ctx context.Context, org ids.Org, from io.Reader) (*Imported, string, error) {
	select {
	case i.busy <- struct{}{}:
		defer func() { <-i.busy }()
	default:
		return nil, "", fmt.Errorf("%d imports are under way: %w", maxImports, ErrBusy)
	}
	file, err := os.CreateTemp(i.o.Scratch, "import-*.zip")
	if err != nil {
		return nil, "", fmt.Errorf("import hunt: %w", err)
	}
	defer file.Close() // nobody reads it again
	if err := os.Remove(file.Name()); err != nil {
		return nil, "", fmt.Errorf("import hunt: %w", err)
	}
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(file, sum), from)
	if err != nil {
		return nil, "", fmt.Errorf("import hunt, after %d bytes of the zip in %s: %w", size, filepath.Dir(file.Name()), err)
	}
	in, err := Import(ctx, file, size, ImportTarget{Org: org, Writer: i.o.Writer})
	if err != nil {
		return nil, "", joined(err, i.Drop(ctx, org, in))
	}
	return in, hex.EncodeToString(sum.Sum(nil)), nil
}

func joined(err, also error) error {
	if also != nil {
		return fmt.Errorf("%w; and %w", err, also)
	}
	return err
}

// Drop removes an import that is surely not recorded. It goes on when ctx ends.
func (i *Importer) Drop(ctx context.Context, org ids.Org, in *Imported) error {
	ctx = context.WithoutCancel(ctx)
	i.o.Forget(ctx, filestore.HuntDir(org, in.Hunt))
	for _, of := range in.Uploaded {
		i.o.Forget(ctx, filestore.FlowUploadsDir(of.Org, of.Client, of.Flow))
	}
	return discard(ctx, i.o.Files, org, in)
}
