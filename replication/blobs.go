package replication

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"
	"time"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

const blobDir = "blobs"

// blobs keeps bodies that are too large for an entry, each in a file named by
// its SHA-256. A file is removed only when no remaining entry names it, nobody
// here is about to, and that has been so for blobGrace.
type blobs struct {
	files *filestore.Store
	max   int64

	mu     sync.Mutex
	held   map[chainHash]int           // by mutations on their way
	going  map[chainHash]chan struct{} // being removed; closed when that is done
	unused map[chainHash]time.Time     // since when nothing names them
}

// blobGrace is how long a blob stays after the last that named it: far longer
// than another node needs from publishing one to its entry.
const blobGrace = time.Hour

func newBlobs(o Options) *blobs {
	return &blobs{
		files: o.Store, max: o.MaxBodyBytes,
		held: map[chainHash]int{}, going: map[chainHash]chan struct{}{}, unused: map[chainHash]time.Time{},
	}
}

func blobPath(hash []byte) string { return path.Join(blobDir, hex.EncodeToString(hash)) }

// store returns m as the ledger takes it. A large body is durable in its own
// file before; release tells that the entry has its place.
func (b *blobs) store(ctx context.Context, m *buspb.Mutation) (stored *buspb.Mutation, release func(), err error) {
	if len(m.Body) <= inlineBytes {
		return wholeOf(m, m.Body), func() {}, nil
	}
	hash := sha256.Sum256(m.Body)
	if err := b.hold(ctx, hash); err != nil {
		return nil, nil, fmt.Errorf("store body: %w", err)
	}
	if err := b.files.PublishFile(ctx, blobPath(hash[:]), m.Body); err != nil && !errors.Is(err, filestore.ErrExists) {
		b.release(hash)
		return nil, nil, fmt.Errorf("store body: %w", err)
	}
	stored = wholeOf(m, nil)
	stored.Blob, stored.BlobBytes = hash[:], int64(len(m.Body))
	return stored, sync.OnceFunc(func() { b.release(hash) }), nil
}

// whole returns m as States see it, with its body read back if it is a blob.
func (b *blobs) whole(ctx context.Context, m *buspb.Mutation) (*buspb.Mutation, error) {
	if len(m.Blob) == 0 {
		return m, nil
	}
	body, err := b.files.ReadFile(ctx, blobPath(m.Blob), b.max)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, filestore.ErrTooLarge) {
		return nil, fmt.Errorf("read body: %w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	if hash := sha256.Sum256(body); string(hash[:]) != string(m.Blob) || int64(len(body)) != m.BlobBytes {
		return nil, fmt.Errorf("read body %x: its bytes have another hash: %w", m.Blob, ErrDamaged)
	}
	return wholeOf(m, body), nil
}

// want gives a blob that another node speaks of its full time again; one that is
// going is waited out.
func (b *blobs) want(ctx context.Context, sum []byte) error {
	if len(sum) != sha256.Size {
		return fmt.Errorf("blob of %d bytes of hash: %w", len(sum), ErrInvalid)
	}
	hash := chainHash(sum)
	if err := b.hold(ctx, hash); err != nil {
		return err
	}
	b.mu.Lock()
	delete(b.unused, hash)
	b.mu.Unlock()
	b.release(hash)
	return nil
}

// publish makes sure that a body which is sent once more is still in its file.
func (b *blobs) publish(ctx context.Context, it *item) error {
	again := it.sent
	it.sent = true
	if len(it.stored.Blob) == 0 || !again {
		return nil
	}
	if err := b.files.PublishFile(ctx, blobPath(it.stored.Blob), it.whole.Body); err != nil && !errors.Is(err, filestore.ErrExists) {
		return fmt.Errorf("store body: %w", err)
	}
	return nil
}

// hold keeps a blob from being removed; one that is going is waited out.
func (b *blobs) hold(ctx context.Context, hash chainHash) error {
	for {
		b.mu.Lock()
		gone := b.going[hash]
		if gone == nil {
			b.held[hash]++
		}
		b.mu.Unlock()
		if gone == nil {
			return nil
		}
		select {
		case <-gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *blobs) release(hash chainHash) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held[hash]--; b.held[hash] <= 0 {
		delete(b.held, hash)
	}
}

// sweep removes blobs that are not in use, and returns how many.
func (b *blobs) sweep(ctx context.Context, used func(chainHash) bool) (int, error) {
	names, err := b.files.ReadDir(ctx, blobDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("sweep blobs: %w", err)
	}
	removed := 0
	for _, name := range names {
		raw, err := hex.DecodeString(name)
		if err != nil || len(raw) != sha256.Size {
			continue
		}
		hash := chainHash(raw)
		if !b.claim(hash, used(hash)) {
			continue
		}
		err = b.files.Remove(ctx, blobPath(raw))
		b.gone(hash)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, fmt.Errorf("sweep blobs: %w", err)
		}
		removed++
	}
	return removed, nil
}

// claim marks a blob as going if it has been of no use for long enough.
func (b *blobs) claim(hash chainHash, used bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if used || b.held[hash] > 0 {
		delete(b.unused, hash)
		return false
	}
	since, seen := b.unused[hash]
	if !seen {
		b.unused[hash] = time.Now()
	}
	if !seen || time.Since(since) < blobGrace {
		return false
	}
	delete(b.unused, hash)
	b.going[hash] = make(chan struct{})
	return true
}

func (b *blobs) gone(hash chainHash) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.going[hash])
	delete(b.going, hash)
}
