package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"raptorpack/filestore"
	"raptorpack/replication"
)

// scrubber reads a whole store and passes on what it finds to be damaged.
type scrubber struct {
	checker
	disk     filestore.FS
	meter    *meter
	findings chan finding           // no room: the scrub waits until a finding is taken
	place    atomic.Pointer[string] // what is read at the moment

	ended   map[string]bool            // incarnations that write no more
	seals   map[string]*filestore.Seal // of those; nil: it cannot be read
	ledger  replication.Report         // as far as it is whole
	blobs   int64
	settled int // how often something was looked at again
}

// What looks wrong in a file of a node that runs is looked at again so often, after
// such a time: an NFS server may have the end of a write before its beginning. Of a
// store that is damaged all over not every file gets that time.
const (
	settleTries = 3
	settleAfter = time.Second
	settleMost  = 60 // tries in all
)

// run reads everything until ctx ends. Damage is no error.
func (s *scrubber) run(ctx context.Context) error {
	store, err := s.open(nil)
	if err != nil {
		return err
	}
	s.ended, s.seals = map[string]bool{}, map[string]*filestore.Seal{}
	s.store, s.verify, s.failed = store, s.verifySettled, s.pass
	s.show = func(f finding) error { return s.tell(ctx, f) }
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"nodes", s.readSeals},
		{"ledger", s.readLedger},
		{"blobs", s.readBlobs},
		{"audit", s.readAudit},
		{"rows", s.readRows},
		{"seals", s.holdSeals},
	} {
		s.enter(step.name)
		if err = step.run(ctx); err != nil {
			break
		}
	}
	return errors.Join(err, store.Close(context.WithoutCancel(ctx)))
}

// open opens the store, read through the meter. shown says which names its listings
// have; nil: all.
func (s *scrubber) open(shown func(dir, name string) bool) (*filestore.Store, error) {
	// What a store logs of damage is found here too.
	return filestore.Open("", filestore.Options{FS: meteredFS{s.disk, s.meter, shown}, Logger: slog.New(slog.DiscardHandler)})
}

func (s *scrubber) enter(place string) { s.place.Store(&place) }

// now is what is read at the moment.
func (s *scrubber) now() string {
	if place := s.place.Load(); place != nil {
		return *place
	}
	return ""
}

// tell passes a finding on if it is about damage.
func (s *scrubber) tell(ctx context.Context, f finding) error {
	if f.weight() != harmed {
		return nil
	}
	select {
	case s.findings <- f:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pass makes what cannot be read a finding, unless it was deleted meanwhile.
func (s *scrubber) pass(ctx context.Context, where string, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return s.tell(ctx, finding{Kind: "unreadable", Path: where, Text: err.Error()})
}

// readSeals learns how much of the files of nodes counts that died since the last
// look.
func (s *scrubber) readSeals(ctx context.Context) error {
	all, err := s.store.Incarnations(ctx)
	if err != nil {
		return s.pass(ctx, "nodes", err)
	}
	for _, info := range all {
		s.ended[info.Name] = info.Released || info.Sealed
		if _, known := s.seals[info.Name]; known || !info.Sealed {
			continue
		}
		seal, err := s.store.ReadSeal(ctx, info.Name)
		s.seals[info.Name] = seal
		if err == nil {
			continue
		}
		if err := s.pass(ctx, path.Join("nodes", info.Node.String(), fmt.Sprintf("%d.seal", info.N)), err); err != nil {
			return err
		}
	}
	return nil
}

func (s *scrubber) sealed(name string) (int64, bool) {
	seal := s.seals[filestore.SegmentIncarnation(name)]
	if seal == nil {
		return 0, false
	}
	length, named := seal.Lengths[name]
	return length, named
}

// readLedger verifies ledger and snapshots. The first break ends a verification, so
// after one each snapshot is looked at by itself, and the ledger without any.
func (s *scrubber) readLedger(ctx context.Context) error {
	report, err := replication.Verify(ctx, s.store)
	s.ledger = report
	if err == nil || ctx.Err() != nil {
		return err
	}
	names, err := s.store.ReadDir(ctx, "snapshots")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.pass(ctx, "snapshots", err)
	}
	whole, broken := 0, 0
	for _, only := range names {
		report, err := s.verifyPart(ctx, func(dir, name string) bool { return dir != "ledger" && (dir != "snapshots" || name == only) })
		whole += report.Snapshots
		if err != nil {
			broken++
			if err := s.tell(ctx, finding{Kind: "snapshot", Path: path.Join("snapshots", only), Text: err.Error()}); err != nil {
				return err
			}
		}
	}
	s.ledger, err = s.verifyPart(ctx, func(dir, _ string) bool { return dir != "snapshots" })
	if err == nil && broken == 0 { // each is whole, so they contradict each other, or did for a moment
		s.ledger, err = replication.Verify(ctx, s.store)
	}
	s.ledger.Snapshots = whole
	if err == nil || ctx.Err() != nil {
		return err
	}
	return s.tell(ctx, finding{Kind: "ledger", Path: "ledger", Text: err.Error()})
}

// verifyPart verifies what is left of the ledger when listings show only some names.
func (s *scrubber) verifyPart(ctx context.Context, shown func(dir, name string) bool) (replication.Report, error) {
	part, err := s.open(shown)
	if err != nil {
		return replication.Report{}, err
	}
	report, err := replication.Verify(ctx, part)
	return report, errors.Join(err, part.Close(context.WithoutCancel(ctx)))
}

// readBlobs hashes the bodies of large mutations, which are named by their hash.
func (s *scrubber) readBlobs(ctx context.Context) error {
	return s.eachFile(ctx, "blobs", func(name string, content io.Reader) (string, error) {
		want, err := hex.DecodeString(path.Base(name))
		if err != nil || len(want) != sha256.Size {
			return "", nil // none of ours
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, content); err != nil {
			return "", err
		}
		s.blobs++
		if got := sum.Sum(nil); !bytes.Equal(got, want) {
			return fmt.Sprintf("its bytes have the hash %x", got), nil
		}
		return "", nil
	})
}

// maxAuditLine is more than any line of the audit trail has: a request's body is at
// most 1 MiB.
const maxAuditLine = 8 << 20

// readAudit looks at each line of the audit trail. The last one may be torn.
func (s *scrubber) readAudit(ctx context.Context) error {
	return s.eachFile(ctx, "audit", func(name string, content io.Reader) (string, error) {
		if path.Ext(name) != ".jsonl" {
			return "", nil
		}
		lines := bufio.NewReaderSize(content, maxAuditLine)
		for number := 1; ; number++ {
			line, err := lines.ReadSlice('\n')
			switch {
			case errors.Is(err, io.EOF):
				return "", nil
			case errors.Is(err, bufio.ErrBufferFull):
				return fmt.Sprintf("line %d does not end", number), nil
			case err != nil:
				return "", err
			case !json.Valid(line):
				return fmt.Sprintf("line %d is no JSON", number), nil
			}
		}
	})
}

// eachFile has look read the files of a folder; it returns what is wrong with one,
// or why it cannot be read.
func (s *scrubber) eachFile(ctx context.Context, dir string, look func(name string, content io.Reader) (wrong string, err error)) error {
	names, err := s.store.ReadDir(ctx, dir)
	if err != nil {
		return s.pass(ctx, dir, err)
	}
	for _, name := range names {
		name = path.Join(dir, name)
		wrong, err := s.readFile(ctx, name, look)
		if err == nil && wrong != "" {
			err = s.tell(ctx, finding{Kind: dir, Path: name, Text: wrong})
		} else if err != nil {
			err = s.pass(ctx, name, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *scrubber) readFile(ctx context.Context, name string, look func(string, io.Reader) (string, error)) (string, error) {
	file, err := s.store.OpenFile(ctx, name)
	if err != nil {
		return "", err
	}
	from := readerAt(func(p []byte, off int64) (int, error) { return file.ReadAt(ctx, p, off) })
	wrong, err := look(name, bufio.NewReaderSize(io.NewSectionReader(from, 0, math.MaxInt64), 1<<20))
	return wrong, errors.Join(err, file.Close(context.WithoutCancel(ctx)))
}

// readerAt makes an io.ReaderAt of a function.
type readerAt func(p []byte, off int64) (int, error)

// ReadAt implements io.ReaderAt.
func (f readerAt) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// readRows walks all segments, and what they say of uploads.
func (s *scrubber) readRows(ctx context.Context) error {
	s.read = filestore.NewReader(filestore.ReaderOptions{Store: s.store, Sealed: s.sealed, Logger: slog.New(slog.DiscardHandler)})
	for _, top := range rowFolders {
		if err := s.walk(ctx, top); err != nil {
			return err
		}
	}
	return nil
}

// verifySettled checks a set. What looks wrong in a file that may be written just
// now is looked at again.
func (s *scrubber) verifySettled(ctx context.Context, set filestore.Set) (*filestore.ExportReport, error) {
	s.enter(set.String())
	report, err := s.read.Verify(ctx, set)
	for tries := 0; tries < settleTries && s.settled < settleMost && err == nil && s.unsettled(report); tries++ {
		if !pause(ctx, settleAfter) {
			return nil, context.Cause(ctx)
		}
		s.settled++
		if err := s.readSeals(ctx); err != nil { // its node may have died meanwhile
			return nil, err
		}
		report, err = s.read.Verify(ctx, set)
	}
	return report, err
}

func (s *scrubber) unsettled(report *filestore.ExportReport) bool {
	return slices.ContainsFunc(report.Damage, func(d filestore.Damage) bool {
		return harm(d.Kind) && !s.ended[filestore.SegmentIncarnation(d.Path)]
	})
}

// holdSeals looks for files that seals name and that are not there: a walk does not
// meet them.
func (s *scrubber) holdSeals(ctx context.Context) error {
	for _, incarnation := range sortedKeys(s.seals) {
		if s.seals[incarnation] == nil {
			continue
		}
		lengths := s.seals[incarnation].Lengths
		for _, name := range sortedKeys(lengths) {
			if lengths[name] == 0 || !s.lost(ctx, name) {
				continue
			}
			f := finding{Kind: string(filestore.DamageLost), Path: name, Bytes: lengths[name], Text: "a seal names it and it is not there"}
			if err := s.tell(ctx, f); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

// lost reports whether a file is not there any more, but what it belongs to is. One
// that is being deleted just now gets time to go.
func (s *scrubber) lost(ctx context.Context, name string) bool {
	is := func() bool { return s.gone(ctx, name) && !s.gone(ctx, ownerOf(name)) }
	return is() && pause(ctx, settleAfter) && is()
}

// ownerOf is the folder that is deleted with a segment: its collection's or hunt's,
// else the set's own.
func ownerOf(segment string) string {
	parts := strings.Split(segment, "/")
	for i, part := range parts {
		if (part == "collections" || part == "hunts") && i+2 < len(parts) {
			return path.Join(parts[:i+2]...)
		}
	}
	return path.Dir(segment)
}
