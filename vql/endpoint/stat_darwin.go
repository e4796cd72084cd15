package endpoint

import (
	"io/fs"
	"os"
	"syscall"
	"time"

	"raptorpack/vql"
)

// statFacts is what one lstat tells.
type statFacts struct {
	mode                       fs.FileMode
	size                       int64
	mtime, atime, ctime, btime time.Time
	device, inode              uint64
	uid, gid, links            uint32
}

// lstatFacts asks for the facts of a name without following a link.
func lstatFacts(name string) (*statFacts, error) { return unixFacts(os.Lstat(name)) }

// followFacts asks for the facts of what a name leads to.
func followFacts(name string) (*statFacts, error) { return unixFacts(os.Stat(name)) }

func unixFacts(info fs.FileInfo, err error) (*statFacts, error) {
	if err != nil {
		return nil, err
	}
	f := &statFacts{mode: info.Mode(), size: info.Size(), mtime: info.ModTime().UTC()}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		stamp := func(t syscall.Timespec) time.Time { return time.Unix(t.Unix()).UTC() }
		f.atime, f.ctime, f.btime = stamp(s.Atimespec), stamp(s.Ctimespec), stamp(s.Birthtimespec)
		f.device, f.inode = uint64(s.Dev), s.Ino
		f.uid, f.gid, f.links = s.Uid, s.Gid, uint32(s.Nlink)
	}
	return f, nil
}

// data lists the further facts of a file that queries see as Data.
func (f *statFacts) data(name string) *vql.Dict {
	d := vql.NewDict()
	if f.mode&fs.ModeSymlink != 0 {
		if target, err := os.Readlink(name); err == nil {
			d.Set("Link", target)
		}
	}
	return d
}

// sys lists owner and inode.
func (f *statFacts) sys() *vql.Dict {
	d := vql.NewDict()
	d.Set("Uid", int64(f.uid))
	d.Set("Gid", int64(f.gid))
	d.Set("Ino", f.inode)
	d.Set("Nlink", int64(f.links))
	d.Set("Dev", f.device)
	return d
}
