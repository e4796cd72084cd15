package pool

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"raptorpack/client"
	"raptorpack/ids"
)

// ErrIdentities means that a file of identities cannot be read as one.
var ErrIdentities = errors.New("not a file of pool identities")

// The exponent and prime size of agents' keys: two primes make 2048 bits.
const (
	exponent  = 65537
	primeBits = 1024
)

const identitiesHead = `# raptorpack pool identities, version 1
#
# FOR LOAD TESTS ONLY. THESE KEYS PROTECT NOTHING.
# Client n's key is the product of a pair of the primes below. Clients share
# primes, so one division of two public keys breaks both. Never let such a client
# enrol with a server that matters.
#
`

// Identities are the keys of simulated agents.
//
// FOR LOAD TESTS ONLY. A 2048-bit key costs about a tenth of a second to make, so
// ten thousand would take a quarter of an hour. Here K primes are made and every
// pair of them is one key: 142 primes are 10,011 keys. Two keys that share a prime
// are broken by one greatest common divisor of their public halves. They work as
// keys do, so a server pays what it pays for real ones; they secure nothing. This
// is why it stands here and not in package client.
//
// Immutable once made; safe for concurrent use.
type Identities struct {
	primes  []*big.Int
	install time.Time
}

// Count is how many identities there are.
func (i *Identities) Count() int { return len(i.primes) * (len(i.primes) - 1) / 2 }

// At makes identity n, from 0: always the same one, also after primes were added.
func (i *Identities) At(n int) (*client.Identity, error) {
	if n < 0 || n >= i.Count() {
		return nil, fmt.Errorf("identity %d of %d: %w", n, i.Count(), errOption)
	}
	// The pairs in order: (0,1) (0,2) (1,2) (0,3) (1,3) (2,3) ...
	second, first := 1, n
	for first >= second {
		first -= second
		second++
	}
	key, err := product(i.primes[first], i.primes[second])
	if err != nil {
		return nil, fmt.Errorf("identity %d: %w", n, err)
	}
	return &client.Identity{Key: key, ID: ids.ClientOfKey(&key.PublicKey), InstallTime: i.install}, nil
}

func product(p, q *big.Int) (*rsa.PrivateKey, error) {
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	key := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: exponent},
		Primes:    []*big.Int{p, q}, D: new(big.Int).ModInverse(big.NewInt(exponent), phi),
	}
	if key.D == nil {
		return nil, fmt.Errorf("prime without an exponent: %w", ErrIdentities)
	}
	key.Precompute()
	if err := key.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIdentities, err)
	}
	return key, nil
}

// LoadIdentities reads the identities in the file at path and adds to them until
// there are count; the file is made when it is not there, and replaced as a whole
// when it grows. With an empty path nothing is stored. ErrIdentities if the file
// is something else.
func LoadIdentities(ctx context.Context, path string, count int) (*Identities, error) {
	i := &Identities{install: time.Now().UTC().Truncate(time.Second)}
	if path != "" {
		text, err := os.ReadFile(path)
		if err == nil {
			err = i.parse(text)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read identities of %s: %w", path, err)
		}
	}
	if i.Count() >= count {
		return i, nil
	}
	if err := i.grow(ctx, count); err != nil {
		return nil, err
	}
	if path == "" {
		return i, nil
	}
	return i, i.store(path)
}

// grow adds primes until their pairs suffice.
func (i *Identities) grow(ctx context.Context, count int) error {
	need := 2
	for need*(need-1)/2 < count {
		need++
	}
	fresh := make([]*big.Int, need-len(i.primes))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for n := range fresh {
		group.Go(func() (err error) {
			fresh[n], err = prime(ctx)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("make primes: %w", err)
	}
	i.primes = append(i.primes, fresh...)
	return nil
}

// prime makes a prime that fits the exponent.
func prime(ctx context.Context) (*big.Int, error) {
	rest := new(big.Int)
	for ctx.Err() == nil {
		p, err := rand.Prime(rand.Reader, primeBits)
		if err != nil {
			return nil, err
		}
		if rest.Mod(p, big.NewInt(exponent)).Cmp(big.NewInt(1)) != 0 {
			return p, nil
		}
	}
	return nil, context.Cause(ctx)
}

// parse reads the file: comments, the install time in seconds, then a prime in
// hexadecimal a line.
func (i *Identities) parse(text []byte) error {
	lines := bufio.NewScanner(bytes.NewReader(text))
	number, known := 0, map[string]bool{}
	for lines.Scan() {
		number++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if seconds, ok := strings.CutPrefix(line, "install "); ok {
			n, err := strconv.ParseInt(seconds, 10, 64)
			if err != nil {
				return fmt.Errorf("line %d: %w: %w", number, ErrIdentities, err)
			}
			i.install = time.Unix(n, 0).UTC()
			continue
		}
		p, ok := new(big.Int).SetString(line, 16)
		if !ok || p.BitLen() != primeBits || known[line] {
			return fmt.Errorf("line %d: %w", number, ErrIdentities)
		}
		known[line] = true
		i.primes = append(i.primes, p)
	}
	return lines.Err()
}

func (i *Identities) store(path string) error {
	var text bytes.Buffer
	text.WriteString(identitiesHead)
	fmt.Fprintf(&text, "install %d\n", i.install.Unix())
	for _, p := range i.primes {
		fmt.Fprintf(&text, "%x\n", p)
	}
	fresh, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("store identities: %w", err)
	}
	_, err = fresh.Write(text.Bytes())
	if err = errors.Join(err, fresh.Close()); err == nil {
		err = os.Rename(fresh.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("store identities: %w", err), os.Remove(fresh.Name()))
	}
	return nil
}
