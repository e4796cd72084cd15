package filestore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// ErrIncomplete means that no node has all bytes of an upload. Trying again
// helps once the missing ones came; IncompleteError says which they are.
var ErrIncomplete = errors.New("upload is incomplete")

// IncompleteError is ErrIncomplete with the missing ranges of stored bytes.
type IncompleteError struct {
	Key     UploadKey
	Missing Intervals
}

// Error implements error.
func (e *IncompleteError) Error() string {
	return fmt.Sprintf("%s: bytes %.200s missing", e.Key, e.Missing)
}

// Is makes errors.Is(err, ErrIncomplete) true.
func (e *IncompleteError) Is(target error) bool { return target == ErrIncomplete }

// UploadFinish asks to give an upload its name. Components are the client's own
// words; Index is empty unless the file is sparse.
type UploadFinish struct {
	Key        UploadKey
	Accessor   string
	Components []string
	Size       int64 // logical size, sparse runs included
	StoredSize int64 // bytes stored
	Index      []Range
	Whole      bool // all its bytes came to this node, together with its end
}

// StoredUpload is an upload under its name.
type StoredUpload struct {
	Path       string // for OpenUpload, relative to the store's root
	SHA256     string // of the stored bytes, in hex
	Size       int64
	StoredSize int64
	Sparse     bool
	Conflict   bool // other bytes had come for the same places, from an earlier start: the newest are stored
}

// Kinds of names that an upload can get.
const (
	nameOwn   = iota // its components, escaped
	nameTaken        // the same and "~<number>": another upload has the first
	nameOther        // %other/<number>: too long, or a file stands where a folder should
	nameKinds
)

// maxUploadPath bounds the components of an upload's path in bytes, escaped.
const maxUploadPath = 2000

// finalPath returns the name of one kind.
func (f *UploadFinish) finalPath(kind int) string {
	base := path.Join(FlowUploadsDir(f.Key.Org, f.Key.Client, f.Key.Flow), accessorPath(f.Accessor))
	number := strconv.FormatInt(f.Key.Number, 10)
	name := f.ownName()
	switch {
	case kind == nameOther || len(name) > maxUploadPath:
		return path.Join(base, "%other", number)
	case kind == nameTaken:
		return path.Join(base, name) + "~" + number
	default:
		return path.Join(base, name)
	}
}

// accessorPath is an accessor's name, escaped, or its hash if it is absurdly
// long.
func accessorPath(accessor string) string {
	if name := EscapeName(accessor); len(name) <= 2*maxChunk {
		return name
	}
	sum := sha256.Sum256([]byte(accessor))
	return path.Join("%long", hex.EncodeToString(sum[:]))
}

func (f *UploadFinish) ownName() string {
	if len(f.Components) == 0 {
		return emptyName
	}
	parts := make([]string, len(f.Components))
	for i, component := range f.Components {
		parts[i] = EscapeName(component)
	}
	return strings.Join(parts, "/")
}

func (f *UploadFinish) check() error {
	if err := f.Key.check(); err != nil {
		return err
	}
	if f.StoredSize < 0 || f.StoredSize > MaxUploadBytes || f.Size < 0 || f.Size > MaxUploadBytes {
		return fmt.Errorf("%s: size %d, stored %d: %w", f.Key, f.Size, f.StoredSize, ErrBadAppend)
	}
	if len(f.Index) > 0 {
		return checkIndex(f.Index, f.Size, f.StoredSize)
	}
	return nil
}

// FinishUpload gives an upload its name, once all its bytes are durable here or
// elsewhere: it copies in what other incarnations hold, syncs, hashes, links,
// syncs the directory and removes the parts. Repeating it, after a crash or on
// another node too, gives the same answer. Errors are those of Submit,
// ErrIncomplete, and ErrBadIndex for an index that contradicts itself. ErrLeaseLost
// means that ctx ended while the lease had lapsed.
//
// Its caller submits the fact of it afterwards. CleanUploads removes the small
// marks that stay below .parts, when the flow has ended.
func (c *Committer) FinishUpload(ctx context.Context, f UploadFinish) (*StoredUpload, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	fin := finisher{c: c, f: &f}
	ctx, leave, err := c.enter(ctx, &fin)
	if err != nil {
		return nil, err
	}
	defer leave()
	waits := func() bool { return ctx.Err() == nil }
	if !c.held(ctx, waits) {
		return nil, fmt.Errorf("finish %s: %w", f.Key, ErrLeaseLost)
	}
	entry, err := c.uploads.acquire(ctx, f.Key)
	if err != nil {
		return nil, fmt.Errorf("finish %s: %w", f.Key, err)
	}
	defer c.uploads.release(entry)
	fin.u = entry.value
	fin.u.finishing.Store(true)
	defer fin.u.finishing.Store(false)
	stored, err := fin.run(ctx)
	if err == nil && !c.held(ctx, waits) {
		err = ErrLeaseLost
	}
	if err != nil {
		return nil, fmt.Errorf("finish %s: %w", f.Key, err)
	}
	return stored, nil
}

// enter notes a call that Run must wait for, and may break off.
func (c *Committer) enter(ctx context.Context, fin *finisher) (context.Context, func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping {
		return nil, nil, ErrStopped
	}
	ctx, cancel := context.WithCancel(ctx)
	c.finishes[fin] = cancel
	c.running.Add(1)
	return ctx, func() {
		cancel()
		c.mu.Lock()
		delete(c.finishes, fin)
		c.mu.Unlock()
		c.running.Done()
	}, nil
}

// finisher puts one upload together.
type finisher struct {
	c *Committer
	f *UploadFinish
	u *upload

	own      uploadPart   // this incarnation's part, if it is listed
	others   []uploadPart // the others, as listed
	listed   bool
	conflict bool // other bytes came before
}

func (n *finisher) run(ctx context.Context) (*StoredUpload, error) {
	for try := 1; ; try++ {
		if done := n.u.finished; done != nil {
			copied := *done
			return &copied, nil
		}
		stored, err := n.assemble(ctx)
		away := errors.Is(err, errTakenAway)
		if !away && !errors.Is(err, errVanished) || try == maxFinishes {
			return stored, err
		}
		// Another incarnation was first, and its mark says so; or the folder is gone.
		if n.listed = false; away {
			n.u.leave(ctx)
		}
	}
}

var (
	// errTakenAway means that this incarnation's part has lost its name.
	errTakenAway = errors.New("part is gone")

	// errVanished means that another's part has.
	errVanished = errors.New("part of another incarnation is gone")
)

// maxFinishes bounds how often a finish begins anew.
const maxFinishes = 3

// assemble puts the upload together and gives it its name. Bytes that all came
// with its end need no look at what others hold.
func (n *finisher) assemble(ctx context.Context) (*StoredUpload, error) {
	u := n.u
	if !n.f.Whole || !u.began || !u.covered.Has(0, n.f.StoredSize) {
		if done, err := n.gather(ctx); done != nil || err != nil {
			return done, err
		}
	}
	if err := n.trim(ctx); err != nil {
		return nil, err
	}
	sum, err := u.sum(ctx, n.f.StoredSize)
	if err != nil {
		return nil, err
	}
	return n.place(ctx, sum)
}

// open makes sure that this incarnation has a part of its own.
func (n *finisher) open(ctx context.Context) error {
	u, c := n.u, n.c
	if u.isOpen() {
		return nil
	}
	if u.began {
		err := u.reopen(ctx, c)
		if isMissing(err) {
			return fmt.Errorf("%w: %w", errTakenAway, err)
		}
		return err
	}
	dir := u.key.partsDir()
	if err := u.create(ctx, c, func(name string) (*Handle, error) { return c.store.CreateFile(ctx, name) }); err != nil {
		return err
	}
	if err := c.store.SyncDir(ctx, dir); err != nil {
		u.leave(ctx) // its names may not last, and nobody would sync them again
		return err
	}
	return nil
}

// trim cuts off what an earlier, longer start of the same upload left behind,
// and makes the part exist even if it is empty.
func (n *finisher) trim(ctx context.Context) error {
	u := n.u
	if err := n.open(ctx); err != nil {
		return err
	}
	if u.dataSize <= n.f.StoredSize {
		return nil
	}
	err := u.data.Truncate(ctx, n.f.StoredSize)
	if err == nil {
		err = u.data.Sync(ctx)
	}
	if err != nil {
		u.leave(ctx)
		return err
	}
	u.dataSize = n.f.StoredSize
	if u.hashed > n.f.StoredSize {
		u.hash, u.hashed = nil, 0
	}
	return nil
}

// sum completes the running hash, reading back what did not come in order.
func (u *upload) sum(ctx context.Context, size int64) (string, error) {
	if u.hash == nil {
		u.hash, u.hashed = sha256.New(), 0
	}
	const block = 1 << 20
	var buf []byte
	for u.hashed < size {
		if buf == nil {
			buf = make([]byte, min(block, size-u.hashed))
		}
		want := min(int64(len(buf)), size-u.hashed)
		n, err := u.data.ReadAt(ctx, buf[:want], u.hashed)
		if int64(n) < want {
			return "", fmt.Errorf("read back at %d: %w", u.hashed, cmp.Or(err, ErrDamaged))
		}
		u.hash.Write(buf[:want])
		u.hashed += want
	}
	return hex.EncodeToString(u.hash.Sum(nil)), nil
}
