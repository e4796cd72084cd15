package users

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// Cost of a password: argon2id with 19 MiB, two passes, one lane, as OWASP's
// password storage sheet proposes; 35 ms on the machine we measured.
const (
	hashMemoryKiB = 19 << 10
	hashPasses    = 2
	hashLanes     = 1
	hashBytes     = 32
	saltBytes     = 16
	minPassword   = 8
	maxPassword   = 1024
	hashersAtOnce = 4
)

var errHashForm = errors.New("stored password hash is damaged")

// hashers bounds the memory that sign-ins may take: four times 19 MiB.
type hashers chan struct{}

func (h hashers) do(ctx context.Context, work func()) error {
	select {
	case h <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait to hash a password: %w", ctx.Err())
	}
	defer func() { <-h }()
	work()
	return nil
}

// HashPassword derives what is stored of a password, in PHC string form.
func (r *Room) HashPassword(ctx context.Context, password string) ([]byte, error) {
	if len(password) < minPassword || len(password) > maxPassword || !utf8.ValidString(password) {
		return nil, fmt.Errorf("password: expected %d to %d bytes of text: %w", minPassword, maxPassword, ErrRefused)
	}
	salt := make([]byte, saltBytes)
	rand.Read(salt) // never fails since Go 1.24
	var hash []byte
	err := r.hashers.do(ctx, func() {
		hash = argon2.IDKey([]byte(password), salt, hashPasses, hashMemoryKiB, hashLanes, hashBytes)
	})
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, hashMemoryKiB, hashPasses, hashLanes,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(hash)), nil
}

type passwordHash struct {
	memoryKiB uint32
	passes    uint32
	lanes     uint8
	salt      []byte
	hash      []byte
}

func parseHash(text string) (*passwordHash, error) {
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return nil, errHashForm
	}
	h := &passwordHash{}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memoryKiB, &h.passes, &h.lanes); err != nil {
		return nil, errHashForm
	}
	if h.memoryKiB > 1<<20 || h.passes == 0 || h.passes > 64 || h.lanes == 0 {
		return nil, errHashForm
	}
	var errSalt, errHash error
	h.salt, errSalt = base64.RawStdEncoding.DecodeString(parts[4])
	h.hash, errHash = base64.RawStdEncoding.DecodeString(parts[5])
	if errSalt != nil || errHash != nil || len(h.hash) < 16 || len(h.hash) > 64 {
		return nil, errHashForm
	}
	return h, nil
}

// matches compares in constant time.
func (r *Room) matches(ctx context.Context, stored []byte, password string) (bool, error) {
	h, err := parseHash(string(stored))
	if err != nil {
		return false, err
	}
	var got []byte
	err = r.hashers.do(ctx, func() {
		got = argon2.IDKey([]byte(password), h.salt, h.passes, h.memoryKiB, h.lanes, uint32(len(h.hash)))
	})
	return err == nil && subtle.ConstantTimeCompare(got, h.hash) == 1, err
}
