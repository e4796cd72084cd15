//go:build !linux && !darwin

package endpoint

import (
	"io/fs"
	"os"
	"time"

	"raptorpack/vql"
)

// statFacts is what one lstat tells.
type statFacts struct {
	mode                       fs.FileMode
	size                       int64
	mtime, atime, ctime, btime time.Time
	device, inode              uint64 // 0: not known
}

// lstatFacts asks for the facts of a name without following a link.
func lstatFacts(name string) (*statFacts, error) { return plainFacts(os.Lstat(name)) }

// followFacts asks for the facts of what a name leads to.
func followFacts(name string) (*statFacts, error) { return plainFacts(os.Stat(name)) }

func plainFacts(info fs.FileInfo, err error) (*statFacts, error) {
	if err != nil {
		return nil, err
	}
	f := &statFacts{mode: info.Mode(), size: info.Size(), mtime: info.ModTime().UTC()}
	f.addTimes(info)
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

// sys lists owner and inode, which this platform does not tell.
func (f *statFacts) sys() *vql.Dict { return vql.NewDict() }
