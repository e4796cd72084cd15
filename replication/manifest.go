package replication

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"raptorpack/filestore"
)

const (
	snapshotDir      = "snapshots"
	manifestName     = "manifest.jsonl"
	manifestVersion  = 1
	maxManifestBytes = 64 << 20
	unfinishedPrefix = "unfinished-" // + incarnation: a snapshot being written
)

// hexSum is a SHA-256 that JSON shows as hex.
type hexSum [sha256.Size]byte

// MarshalText implements encoding.TextMarshaler.
func (h hexSum) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *hexSum) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) != len(h) {
		return fmt.Errorf("hash %.80q: %w", text, ErrDamaged)
	}
	*h = hexSum(raw)
	return nil
}

// section is one kind's file of a snapshot.
type section struct {
	Kind   string `json:"kind"`
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	SHA256 hexSum `json:"sha256"`
}

// mention says that an entry has its body in a blob.
type mention struct {
	Index uint64 `json:"index"`
	Blob  hexSum `json:"blob"`
}

// manifest is the first line of a snapshot's manifest file; the second holds
// the hash of the first.
type manifest struct {
	Version  int       `json:"version"`
	Index    uint64    `json:"index"`
	Epoch    uint64    `json:"epoch"`
	Time     int64     `json:"time"` // of the entry at index, unix microseconds
	Chain    hexSum    `json:"chain"`
	Digest   hexSum    `json:"digest"`
	Sections []section `json:"sections"`
	Blobs    []mention `json:"blobs"` // of entries since the snapshot before
}

type manifestSum struct {
	SHA256 hexSum `json:"manifest_sha256"`
}

func (m *manifest) place() place {
	return place{epoch: m.Epoch, index: m.Index, time: m.Time, chain: chainHash(m.Chain)}
}

func (m *manifest) bytes() (total int64) {
	for _, s := range m.Sections {
		total += s.Bytes
	}
	return total
}

func (m *manifest) encode() ([]byte, error) {
	line, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	sum, err := json.Marshal(manifestSum{sha256.Sum256(line)})
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return slices.Concat(line, []byte("\n"), sum, []byte("\n")), nil
}

// parseManifest checks a manifest against its hash and the name of its folder.
func parseManifest(data []byte, name string) (*manifest, error) {
	line, rest, _ := bytes.Cut(data, []byte("\n"))
	var sum manifestSum
	if err := json.Unmarshal(rest, &sum); err != nil || sum.SHA256 != sha256.Sum256(line) {
		return nil, fmt.Errorf("manifest does not match its hash: %w", ErrDamaged)
	}
	m := new(manifest)
	if err := json.Unmarshal(line, m); err != nil {
		return nil, fmt.Errorf("manifest: %w: %w", ErrDamaged, err)
	}
	if m.Version != manifestVersion {
		return nil, fmt.Errorf("manifest version %d: %w", m.Version, ErrVersion)
	}
	if snapshotName(m.Index, m.Epoch) != name {
		return nil, fmt.Errorf("manifest is of entry %d, epoch %d: %w", m.Index, m.Epoch, ErrDamaged)
	}
	for _, s := range m.Sections {
		if !isKind(s.Kind) || s.File != s.Kind+".jsonl" || s.Bytes < 0 {
			return nil, fmt.Errorf("manifest section %.80q: %w", s.Kind, ErrDamaged)
		}
	}
	return m, nil
}

func snapshotName(index, epoch uint64) string {
	return number(index) + "-" + strconv.FormatUint(epoch, 10)
}

func parseSnapshotName(name string) (index, epoch uint64, ok bool) {
	left, right, _ := strings.Cut(name, "-")
	index, ok = parseNumber(left)
	epoch, err := strconv.ParseUint(right, 10, 64)
	return index, epoch, ok && err == nil && snapshotName(index, epoch) == name
}

// listSnapshots returns the names of published snapshots, newest first, and
// the names of those that were begun and not published.
func listSnapshots(ctx context.Context, s *filestore.Store) (published, unfinished []string, err error) {
	names, err := s.ReadDir(ctx, snapshotDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range names {
		if _, _, ok := parseSnapshotName(name); ok {
			published = append(published, name)
		} else if strings.HasPrefix(name, unfinishedPrefix) {
			unfinished = append(unfinished, name)
		}
	}
	slices.Sort(published)
	slices.Reverse(published)
	return published, unfinished, nil
}

func readManifest(ctx context.Context, s *filestore.Store, name string) (*manifest, error) {
	data, err := s.ReadFile(ctx, path.Join(snapshotDir, name, manifestName), maxManifestBytes)
	if err != nil {
		return nil, err
	}
	return parseManifest(data, name)
}

// verifySnapshot reads a published snapshot back, all of it.
func verifySnapshot(ctx context.Context, s *filestore.Store, name string) (*manifest, error) {
	m, err := readManifest(ctx, s, name)
	if err != nil {
		return nil, fmt.Errorf("verify snapshot %s: %w", name, err)
	}
	for _, sec := range m.Sections {
		if err := readSection(ctx, s, name, sec, nil); err != nil {
			return nil, fmt.Errorf("verify snapshot %s: %w", name, err)
		}
	}
	return m, nil
}
