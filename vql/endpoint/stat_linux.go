package endpoint

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"raptorpack/vql"
)

// statFacts is what one lstat tells.
type statFacts struct {
	mode                       fs.FileMode
	size                       int64
	mtime, atime, ctime, btime time.Time
	device, inode              uint64
	mount                      uint64 // its number in /proc/self/mountinfo; 0: the kernel is before 5.8
	uid, gid, links            uint32
}

// lstatFacts asks for the facts of a name without following a link or waking an
// automounter.
func lstatFacts(name string) (*statFacts, error) { return statx(name, unix.AT_SYMLINK_NOFOLLOW) }

// followFacts asks for the facts of what a name leads to.
func followFacts(name string) (*statFacts, error) { return statx(name, 0) }

func statx(name string, flags int) (*statFacts, error) {
	var s unix.Statx_t
	var err error
	for {
		err = unix.Statx(unix.AT_FDCWD, name, flags|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS|unix.STATX_BTIME|unix.STATX_MNT_ID, &s)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return oldStat(name, flags) // kernels before 4.11, sandboxes that know no statx
	}
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	f := &statFacts{
		mode: unixMode(uint32(s.Mode)), size: int64(s.Size),
		mtime: statxTime(s.Mtime), atime: statxTime(s.Atime), ctime: statxTime(s.Ctime),
		device: unix.Mkdev(s.Dev_major, s.Dev_minor), inode: s.Ino,
		uid: s.Uid, gid: s.Gid, links: s.Nlink,
	}
	if s.Mask&unix.STATX_MNT_ID != 0 {
		f.mount = s.Mnt_id
	}
	if s.Mask&unix.STATX_BTIME != 0 {
		f.btime = statxTime(s.Btime)
	}
	return f, nil
}

func oldStat(name string, flags int) (*statFacts, error) {
	var s unix.Stat_t
	if err := unix.Fstatat(unix.AT_FDCWD, name, &s, flags&unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	stamp := func(t unix.Timespec) time.Time { return time.Unix(t.Unix()).UTC() }
	return &statFacts{
		mode: unixMode(s.Mode), size: s.Size,
		mtime: stamp(s.Mtim), atime: stamp(s.Atim), ctime: stamp(s.Ctim),
		device: s.Dev, inode: s.Ino, uid: s.Uid, gid: s.Gid, links: uint32(s.Nlink),
	}, nil
}

func statxTime(t unix.StatxTimestamp) time.Time { return time.Unix(t.Sec, int64(t.Nsec)).UTC() }

// unixMode translates the kernel's mode bits to Go's.
func unixMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	}
	if m&unix.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if m&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if m&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

// data lists the further facts of a file that queries see as Data.
func (f *statFacts) data(name string) *vql.Dict {
	d := vql.NewDict()
	d.Set("DevMajor", int64(unix.Major(f.device)))
	d.Set("DevMinor", int64(unix.Minor(f.device)))
	d.Set("FSType", filesystemType(f))
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

// filesystemTypes remembers the type for each device: a device number keeps its
// file system while anything on it is in use. Devices that the mount table does
// not know are remembered as well, so that not every row reads the table.
var filesystemTypes struct {
	sync.RWMutex
	byDevice map[uint64]string
}

func filesystemType(f *statFacts) string {
	filesystemTypes.RLock()
	kind, ok := filesystemTypes.byDevice[f.device]
	filesystemTypes.RUnlock()
	if ok {
		return kind
	}
	kind, err := mountType(f)
	if err != nil {
		return "" // to be tried again
	}
	filesystemTypes.Lock()
	defer filesystemTypes.Unlock()
	if filesystemTypes.byDevice == nil || len(filesystemTypes.byDevice) > 4096 {
		filesystemTypes.byDevice = map[uint64]string{}
	}
	filesystemTypes.byDevice[f.device] = kind
	return kind
}

// mountType finds the type of a file's device in our mount table, which costs
// nothing when the file system itself hangs, as statfs would.
func mountType(f *statFacts) (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	return parseMountType(data, unix.Major(f.device), unix.Minor(f.device), f.mount), nil
}
