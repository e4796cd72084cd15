package endpoint

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"raptorpack/vql"
)

// errTooLarge means that a file is larger than the caller allows.
var errTooLarge = errors.New("file is too large")

// defaultHashSize is the most that hash reads unless the call or the variable
// HASH_MAX_SIZE says otherwise.
const defaultHashSize = 100 << 20

type hashArgs struct {
	Path       *vql.Path `vql:"path,required" doc:"The file to hash."`
	Accessor   string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
	HashSelect []string  `vql:"hashselect" doc:"Which of MD5, SHA1, SHA256 to make (all)."`
	MaxSize    int64     `vql:"max_size" doc:"Larger files give NULL (100 MiB, or HASH_MAX_SIZE)."`
}

var hashFunction = vql.NewFunction(vql.Spec{
	Name: "hash", Permission: "FILESYSTEM_READ",
	Doc: "Gives the MD5, SHA1 and SHA256 of a file, or NULL when it cannot be read whole.",
}, func(ctx context.Context, scope *vql.Scope, args *hashArgs) (vql.Value, error) {
	selected, err := selectHashes(args.HashSelect)
	if err != nil {
		return nil, err
	}
	limit := args.MaxSize
	if limit <= 0 {
		limit = scope.LookupInt("HASH_MAX_SIZE", defaultHashSize)
	}
	file, err := openThrough(ctx, scope, args.Accessor, args.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := hashInto(ctx, scope, file, limit, selected); err != nil {
		return nil, fmt.Errorf("%s: %w", args.Path, err)
	}
	out := vql.NewDict()
	for _, name := range hashNames {
		sum := ""
		if h := selected[name]; h != nil {
			sum = hex.EncodeToString(h.Sum(nil))
		}
		out.Set(name, sum)
	}
	return out, nil
})

var hashNames = []string{"MD5", "SHA1", "SHA256"}

func selectHashes(names []string) (map[string]hash.Hash, error) {
	if len(names) == 0 {
		names = hashNames
	}
	out := map[string]hash.Hash{}
	for _, name := range names {
		switch upper := strings.ToUpper(name); upper {
		case "MD5":
			out[upper] = md5.New()
		case "SHA1":
			out[upper] = sha1.New()
		case "SHA256":
			out[upper] = sha256.New()
		default:
			return nil, fmt.Errorf("unknown hash %q, known are MD5, SHA1 and SHA256", name)
		}
	}
	return out, nil
}

// hashInto reads the whole file into the hashes. A file that tells its size up
// front is refused before it is read.
func hashInto(ctx context.Context, scope *vql.Scope, file vql.ReadSeekCloser, limit int64, into map[string]hash.Hash) error {
	if size, err := file.Seek(0, io.SeekEnd); err == nil {
		if size > limit {
			return fmt.Errorf("%w: %d bytes, %d allowed", errTooLarge, size, limit)
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	buf := make([]byte, bufferSize)
	for total := int64(0); ; {
		n, err := file.Read(buf)
		if total += int64(n); total > limit {
			return fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
		}
		for _, h := range into {
			h.Write(buf[:n])
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := scope.Charge(ctx); err != nil {
			return err
		}
	}
}
