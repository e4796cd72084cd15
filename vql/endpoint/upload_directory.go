package endpoint

import (
	"context"
	"crypto/md5" // it tells files apart, it protects nothing
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"raptorpack/vql"
)

type uploadDirectoryArgs struct {
	File     *vql.Path `vql:"file,required" doc:"The file to copy."`
	Name     vql.Value `vql:"name" doc:"The name to store it under (its path)."`
	Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
	Output   string    `vql:"output,required" doc:"The folder to copy into; it is made when it is missing."`
	Mtime    vql.Value `vql:"mtime" doc:"Modification time of the copy (the file's)."`
	Atime    vql.Value `vql:"atime" doc:"Access time of the copy (the file's)."`
	Ctime    vql.Value `vql:"ctime" doc:"Taken for compatibility: no system lets it be set."`
	Btime    vql.Value `vql:"btime" doc:"Taken for compatibility: no system lets it be set."`
}

var uploadDirectoryFunction = vql.NewFunction(vql.Spec{
	Name: "upload_directory", Permission: "FILESYSTEM_WRITE",
	Doc: "Copies a file below a folder and keeps its times. A name never leads out of the folder. Gives the file's size and hashes, or NULL.",
}, func(ctx context.Context, scope *vql.Scope, args *uploadDirectoryArgs) (vql.Value, error) {
	if err := scope.Allowed("FILESYSTEM_READ"); err != nil {
		return nil, err
	}
	accessor, path, err := resolve(scope, args.Accessor, args.File)
	if err != nil {
		return nil, err
	}
	stored := storeAsPath(ctx, scope, args.Name)
	if stored == nil {
		stored = path
	}
	parts := safeParts(stored.Components())
	if len(parts) == 0 {
		return nil, errObjectName
	}
	request := vql.UploadRequest{Mtime: timeOf(scope, args.Mtime), Atime: timeOf(scope, args.Atime)}
	addTimes(ctx, scope, accessor, path, &request)
	file, err := openThrough(ctx, scope, args.Accessor, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	result := &vql.UploadResult{Path: path.String(), Components: parts, Accessor: args.Accessor}
	if result.Accessor == "" {
		result.Accessor = "auto"
	}
	if err := storeBelow(ctx, scope, args.Output, parts, file, request.Atime, request.Mtime, result); err != nil {
		return nil, fmt.Errorf("copy %s: %w", shortName(path.String()), err)
	}
	return result, nil
})

// safeParts spells out what would make a component more, or something else, than a
// name in its folder. The encoding is that of URLs, so that two names stay two.
func safeParts(parts []string) []string {
	var out []string
	for _, part := range parts {
		if part == "" {
			continue
		}
		if strings.Trim(part, ".") == "" {
			out = append(out, strings.ReplaceAll(part, ".", "%2E"))
			continue
		}
		out = append(out, safePart(part))
	}
	return out
}

// maxPart is how long a name may be on all common file systems, in bytes.
const maxPart = 255

func safePart(part string) string {
	unsafe := `%/\`
	if runtime.GOOS == "windows" {
		unsafe = `%/\:*?"<>|`
	}
	var b strings.Builder
	for i := range len(part) {
		if c := part[i]; c < 0x20 || c == 0x7f || strings.IndexByte(unsafe, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	name := b.String()
	if len(name) > maxPart { // the end tells apart what begins alike
		sum := sha256.Sum256([]byte(name))
		name = strings.ToValidUTF8(name[:maxPart-17], "") + "-" + hex.EncodeToString(sum[:8])
	}
	trimmed := runtime.GOOS == "windows" && strings.TrimRight(name, ". ") != name
	if trimmed || !filepath.IsLocal(name) { // as NUL on Windows
		name += "_"
	}
	return name
}

var errIsFolder = errors.New("a folder has that name")

// storeBelow copies r to a file below the folder output. os.Root keeps it there, also
// when a link in the folder leads elsewhere. The copy gets its name when it is whole,
// so that a file may be copied over itself.
func storeBelow(ctx context.Context, scope *vql.Scope, output string, parts []string, r io.Reader, atime, mtime time.Time, result *vql.UploadResult) error {
	if err := os.MkdirAll(output, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(output)
	if err != nil {
		return err
	}
	defer root.Close()
	name := filepath.Join(parts...)
	if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	if info, err := root.Lstat(name); err == nil && info.IsDir() {
		return fmt.Errorf("%s: %w", name, errIsFolder)
	}
	passing := filepath.Join(filepath.Dir(name), ".raptorpack-"+rand.Text())
	err = writeBelow(ctx, scope, root, passing, r, result)
	if err == nil {
		err = keepTimes(root, passing, atime, mtime)
	}
	if err == nil {
		err = root.Rename(passing, name)
	}
	if err != nil {
		if gone := root.Remove(passing); !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		return err
	}
	result.StoredName = filepath.Join(output, name)
	return nil
}

func writeBelow(ctx context.Context, scope *vql.Scope, root *os.Root, name string, r io.Reader, result *vql.UploadResult) error {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	long, short, count := sha256.New(), md5.New(), &counter{}
	err = copyAll(ctx, scope, io.MultiWriter(file, long, short, count), r)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	result.Size, result.StoredSize = count.n, count.n
	result.SHA256, result.MD5 = hex.EncodeToString(long.Sum(nil)), hex.EncodeToString(short.Sum(nil))
	return nil
}

// counter counts the bytes written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// keepTimes gives the copy the times that are known.
func keepTimes(root *os.Root, name string, atime, mtime time.Time) error {
	if mtime.IsZero() {
		mtime = atime
	}
	if atime.IsZero() {
		atime = mtime
	}
	if mtime.IsZero() {
		return nil
	}
	return root.Chtimes(name, atime, mtime)
}
