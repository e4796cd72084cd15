package endpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"
)

// direntBuffers are what folders are listed into: 32 KiB, as the C library takes.
var direntBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// listDir hands the names in a folder to each, in the order of the file system.
// between is called after each buffer and ends the listing with its error.
func listDir(name string, between func() error, each func(name string, mode fs.FileMode)) error {
	fd, err := openListing(name)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // opened for reading only: nothing to lose
	buffer, _ := direntBuffers.Get().(*[32 << 10]byte)
	defer direntBuffers.Put(buffer)
	for {
		n, err := unix.Getdents(fd, buffer[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return &fs.PathError{Op: "readdirent", Path: name, Err: err}
		case n == 0:
			return nil
		}
		eachDirent(name, buffer[:n], each)
		if err := between(); err != nil {
			return err
		}
	}
}

// openListing opens a folder; anything else is refused unopened.
func openListing(name string) (int, error) {
	for {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_LARGEFILE, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// The layout of struct linux_dirent64 (getdents(2)).
const (
	direntLength = 16
	direntType   = 18
	direntName   = 19
)

// eachDirent takes a buffer of the kernel's apart.
func eachDirent(folder string, buffer []byte, each func(name string, mode fs.FileMode)) {
	for len(buffer) > direntName {
		length := int(binary.NativeEndian.Uint16(buffer[direntLength:]))
		if length <= direntName || length > len(buffer) {
			return
		}
		raw := buffer[direntName:length]
		kind := buffer[direntType]
		buffer = buffer[length:]
		if end := bytes.IndexByte(raw, 0); end >= 0 {
			raw = raw[:end]
		}
		if string(raw) == "." || string(raw) == ".." {
			continue
		}
		name := string(raw)
		mode, known := direntMode(kind)
		if !known {
			facts, err := lstatFacts(folder + "/" + name)
			if err != nil { // it went away meanwhile
				continue
			}
			mode = facts.mode.Type()
		}
		each(name, mode)
	}
}

// direntMode turns d_type into a file mode; not all file systems tell.
func direntMode(kind byte) (fs.FileMode, bool) {
	switch kind {
	case unix.DT_REG:
		return 0, true
	case unix.DT_DIR:
		return fs.ModeDir, true
	case unix.DT_LNK:
		return fs.ModeSymlink, true
	case unix.DT_BLK:
		return fs.ModeDevice, true
	case unix.DT_CHR:
		return fs.ModeDevice | fs.ModeCharDevice, true
	case unix.DT_FIFO:
		return fs.ModeNamedPipe, true
	case unix.DT_SOCK:
		return fs.ModeSocket, true
	}
	return 0, false
}
