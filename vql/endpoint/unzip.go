package endpoint

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"raptorpack/vql"
)

type unzipArgs struct {
	Filename        *vql.Path `vql:"filename,required" doc:"The archive."`
	Accessor        string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
	FilenameFilter  string    `vql:"filename_filter" doc:"Only members whose names match this expression."`
	OutputDirectory string    `vql:"output_directory,required" doc:"Where to unpack; it is made if it is missing."`
	Type            string    `vql:"type" doc:"zip, tar or tar.gz (seen from the file)."`
}

// maxMembers bounds the members of an archive that are unpacked; maxUnpacked bounds
// their bytes together.
const maxMembers = 1 << 20

var (
	errNoArchive   = errors.New("neither a zip nor a tar.gz archive")
	errManyMembers = fmt.Errorf("it has more than %d members", maxMembers)
)

var unzipPlugin = vql.NewPlugin(vql.Spec{
	Name: "unzip", Permission: "FILESYSTEM_WRITE",
	Doc:     "Unpacks files of a zip or tar.gz archive. Names that would leave the folder, links and devices are left out.",
	Columns: []string{"OriginalPath", "NewPath", "Size"},
}, func(ctx context.Context, scope *vql.Scope, args *unzipArgs, emit vql.Emit) error {
	if err := scope.Allowed("FILESYSTEM_READ"); err != nil {
		return err
	}
	u := &unpacking{folder: args.OutputDirectory, room: maxUnpacked, emit: emit}
	if args.FilenameFilter != "" {
		var err error
		if u.filter, err = compileRegex(scope, args.FilenameFilter); err != nil {
			return err
		}
	}
	file, err := openThrough(ctx, scope, args.Accessor, args.Filename)
	if err != nil {
		return err
	}
	at, size, closer, err := randomAccess(ctx, scope, file)
	if err != nil {
		return err
	}
	defer closer.Close()
	if err := os.MkdirAll(u.folder, 0o700); err != nil {
		return err
	}
	if u.root, err = os.OpenRoot(u.folder); err != nil {
		return err
	}
	defer u.root.Close()
	return u.unpack(ctx, scope, archiveType(args.Type, at), at, size)
})

// archiveType tells what an archive is.
func archiveType(named string, file io.ReaderAt) string {
	switch strings.ToLower(strings.TrimPrefix(named, ".")) {
	case "zip":
		return "zip"
	case "tar":
		return "tar"
	case "tar.gz", "tgz":
		return "tar.gz"
	case "":
	default:
		return named
	}
	var magic [2]byte
	if _, err := file.ReadAt(magic[:], 0); err != nil {
		return ""
	}
	switch string(magic[:]) {
	case "PK":
		return "zip"
	case "\x1f\x8b":
		return "tar.gz"
	}
	return ""
}

// unpacking is one archive on its way into a folder.
type unpacking struct {
	root   *os.Root // keeps links from leading out of the folder
	folder string
	filter *regexp.Regexp // nil for all
	room   int64          // in bytes
	emit   vql.Emit
}

func (u *unpacking) unpack(ctx context.Context, scope *vql.Scope, kind string, at io.ReaderAt, size int64) error {
	stream := io.NewSectionReader(at, 0, size)
	switch kind {
	case "zip":
		return u.zip(ctx, scope, at, size)
	case "tar":
		return u.tar(ctx, scope, stream)
	case "tar.gz":
		r, err := gzip.NewReader(stream)
		if err != nil {
			return err
		}
		return u.tar(ctx, scope, r)
	}
	return errNoArchive
}

func (u *unpacking) zip(ctx context.Context, scope *vql.Scope, at io.ReaderAt, size int64) error {
	r, err := zip.NewReader(at, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return err
	}
	if len(r.File) > maxMembers {
		return errManyMembers
	}
	for _, f := range r.File {
		err := u.member(ctx, scope, f.Name, f.Mode(), func() (io.ReadCloser, error) {
			if f.Flags&1 != 0 {
				return nil, errEncrypted
			}
			return f.Open()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacking) tar(ctx context.Context, scope *vql.Scope, stream io.Reader) error {
	r := tar.NewReader(&bounding{from: stream, left: maxUnpacked})
	for range maxMembers {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return err
		}
		if err := u.member(ctx, scope, h.Name, h.FileInfo().Mode(), func() (io.ReadCloser, error) { return io.NopCloser(r), nil }); err != nil {
			return err
		}
	}
	return errManyMembers
}

// bounding reads so many bytes: what is passed over in a stream takes time too.
type bounding struct {
	from io.Reader
	left int64
}

func (b *bounding) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errUnpacked
	}
	return n, err
}

// member unpacks one member. An error ends the archive; what is wrong with the
// member alone is a log line.
func (u *unpacking) member(ctx context.Context, scope *vql.Scope, name string, mode fs.FileMode, open func() (io.ReadCloser, error)) error {
	if err := scope.Charge(ctx); err != nil {
		return err
	}
	if mode.IsDir() || strings.HasSuffix(name, "/") || u.filter != nil && !u.filter.MatchString(name) {
		return nil
	}
	local := filepath.FromSlash(name)
	switch {
	case !filepath.IsLocal(local) || strings.Contains(name, `\`) || strings.ContainsRune(name, 0):
		scope.Log(vql.LevelWarn, "unzip: %q would leave the folder, and is left out", name)
		return nil
	case !mode.IsRegular():
		scope.Log(vql.LevelWarn, "unzip: %q is no file, and is left out", name)
		return nil
	}
	size, err := u.write(ctx, scope, local, mode, open)
	if errors.Is(err, errUnpacked) || ctx.Err() != nil {
		return err
	}
	if err != nil {
		scope.Log(vql.LevelDefault, "unzip: %q: %v", name, err)
		return nil
	}
	return u.emit(vql.NewDict().Set("OriginalPath", name).Set("NewPath", filepath.Join(u.folder, local)).Set("Size", size))
}

// write writes a member; half a file is removed.
func (u *unpacking) write(ctx context.Context, scope *vql.Scope, name string, mode fs.FileMode, open func() (io.ReadCloser, error)) (size int64, err error) {
	from, err := open()
	if err != nil {
		return 0, err
	}
	defer from.Close()
	if err := u.root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return 0, err
	}
	permissions := fs.FileMode(0o600)
	if mode&0o111 != 0 {
		permissions = 0o700
	}
	to, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|nonblockWrite, permissions)
	if err != nil {
		return 0, err
	}
	if info, serr := to.Stat(); serr != nil || !info.Mode().IsRegular() {
		return 0, errors.Join(serr, ErrNotRegular, to.Close())
	}
	bound := &bounded{to: to, left: u.room}
	err = copyAll(ctx, scope, bound, from)
	size, u.room = u.room-bound.left, bound.left
	if err = errors.Join(err, to.Close()); err != nil {
		return 0, errors.Join(err, u.root.Remove(name))
	}
	return size, nil
}
