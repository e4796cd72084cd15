package filestore

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"time"

	"raptorpack/ids"
)

// maxSealBytes bounds a seal: some hundred thousand files of one incarnation.
const maxSealBytes = 64 << 20

// Seal says how much of a dead incarnation's files is valid: of those of flows that
// had not ended. Bytes beyond do not count. A file that it does not name belongs to
// something that had ended, or is an event file; of it the valid prefix counts.
type Seal struct {
	Incarnation string           `json:"incarnation"`
	Time        time.Time        `json:"time"`    // by the sealer's clock, for people
	Lengths     map[string]int64 `json:"lengths"` // path: valid bytes
}

const sealSuffix = ".seal"

func sealPath(node ids.Node, n uint64) string { return claimPath(node, n) + sealSuffix }

// SealIncarnation publishes the seal of an incarnation that is over for good, as
// Watcher.Bury makes one that has lapsed; ErrAlive if it may go on. The lengths have
// to be measured after that. The first writer wins: ErrExists means that another
// seal stands, which ReadSeal returns.
func (s *Store) SealIncarnation(ctx context.Context, name string, lengths map[string]int64) error {
	node, n, err := SplitIncarnation(name)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	if err := s.Urgent().mayBeSealed(ctx, node, n); err != nil {
		return fmt.Errorf("seal %s: %w", name, err)
	}
	data, err := json.Marshal(Seal{Incarnation: name, Time: time.Now().UTC(), Lengths: lengths})
	if err != nil {
		return fmt.Errorf("seal %s: %w", name, err)
	}
	return s.Urgent().PublishFile(ctx, sealPath(node, n), append(data, '\n'))
}

func (s *Store) mayBeSealed(ctx context.Context, node ids.Node, n uint64) error {
	listed, err := s.listNode(ctx, node)
	if err != nil {
		return err
	}
	_, over, err := s.observer(0, 0).judge(ctx, node, n, &listed)
	if err == nil && !over {
		return ErrAlive
	}
	return err
}

// ReadSeal returns the seal of an incarnation, or fs.ErrNotExist.
func (s *Store) ReadSeal(ctx context.Context, name string) (*Seal, error) {
	node, n, err := SplitIncarnation(name)
	if err != nil {
		return nil, fmt.Errorf("read seal: %w", err)
	}
	listed, err := s.listNode(ctx, node)
	if err == nil && !listed.seals[n] {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read seal of %s: %w", name, err)
	}
	return s.readSeal(ctx, node, n)
}

// Seals lists nodes/ afresh and returns the seals of those incarnations that known
// says no to, by node and number. A listing costs one call per node, however many
// seals there are. An error comes with the seals that could be read, and joins what
// was wrong with each of the others.
func (s *Store) Seals(ctx context.Context, known func(name string) bool) ([]*Seal, error) {
	nodes, err := s.nodes(ctx)
	if err != nil {
		return nil, err
	}
	var seals []*Seal
	var errs []error
	for _, node := range nodes {
		listed, err := s.listNode(ctx, node)
		if err != nil {
			errs = append(errs, fmt.Errorf("list seals of %s: %w", node, err))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		for _, n := range slices.Sorted(maps.Keys(listed.seals)) {
			if known(incarnationName(node, n)) {
				continue
			}
			seal, err := s.readSeal(ctx, node, n)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			seals = append(seals, seal)
		}
	}
	return seals, errors.Join(errs...)
}

// readSeal reads a seal that a fresh listing shows.
func (s *Store) readSeal(ctx context.Context, node ids.Node, n uint64) (*Seal, error) {
	name, seal := incarnationName(node, n), new(Seal)
	if err := s.readJSON(ctx, sealPath(node, n), seal); err != nil {
		return nil, fmt.Errorf("read seal of %s: %w", name, err)
	}
	if seal.Incarnation != name {
		return nil, fmt.Errorf("seal of %s names %.80q: %w", name, seal.Incarnation, ErrBadRecord)
	}
	return seal, nil
}

// readListed reads a JSON file that a fresh listing shows, else fs.ErrNotExist:
// asking for a name before it is there would make an NFS client remember that
// it is not.
func (s *Store) readListed(ctx context.Context, dir, name string, into any) error {
	names, err := s.ReadDir(ctx, dir)
	if err != nil {
		return err
	}
	if !slices.Contains(names, name) {
		return fs.ErrNotExist
	}
	return s.readJSON(ctx, path.Join(dir, name), into)
}

func (s *Store) readJSON(ctx context.Context, name string, into any) error {
	data, err := s.ReadFile(ctx, name, maxSealBytes)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w: %w", path.Base(name), ErrBadRecord, err)
	}
	return nil
}

// LedgerSeal ends the ledger of an epoch: what lies beyond Length was written
// by a master that was none any more.
type LedgerSeal struct {
	Epoch     uint64   // the sealed one
	By        uint64   // the epoch whose master sealed it
	Length    int64    // valid bytes of the epoch's ledger
	LastIndex uint64   // of the last valid entry
	Chain     [32]byte // chain hash at that entry
}

type ledgerSealJSON struct {
	Epoch     uint64 `json:"epoch"`
	By        uint64 `json:"by"`
	Length    int64  `json:"length"`
	LastIndex uint64 `json:"last_index"`
	Chain     string `json:"chain"`
}

// MarshalJSON implements json.Marshaler.
func (l LedgerSeal) MarshalJSON() ([]byte, error) {
	return json.Marshal(ledgerSealJSON{l.Epoch, l.By, l.Length, l.LastIndex, hex.EncodeToString(l.Chain[:])})
}

// UnmarshalJSON implements json.Unmarshaler; a chain that is no 32 bytes or a
// negative length is ErrBadRecord.
func (l *LedgerSeal) UnmarshalJSON(data []byte) error {
	var v ledgerSealJSON
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	chain, err := hex.DecodeString(v.Chain)
	if err != nil || len(chain) != len(l.Chain) || v.Length < 0 {
		return fmt.Errorf("ledger seal of epoch %d: %w", v.Epoch, ErrBadRecord)
	}
	*l = LedgerSeal{Epoch: v.Epoch, By: v.By, Length: v.Length, LastIndex: v.LastIndex, Chain: [32]byte(chain)}
	return nil
}

// LedgerSeal returns the seal of an epoch, or fs.ErrNotExist while nobody has
// published one.
func (s *Store) LedgerSeal(ctx context.Context, epoch uint64) (*LedgerSeal, error) {
	seal := new(LedgerSeal)
	if err := s.Urgent().readListed(ctx, leaseDir, ledgerSealName(epoch), seal); err != nil {
		return nil, fmt.Errorf("read seal of epoch %d: %w", epoch, err)
	}
	if seal.Epoch != epoch {
		return nil, fmt.Errorf("seal of epoch %d names epoch %d: %w", epoch, seal.Epoch, ErrBadRecord)
	}
	return seal, nil
}

func ledgerSealName(epoch uint64) string { return "seal-" + strconv.FormatUint(epoch, 10) }
