package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"raptorpack/vql"
)

func addPlatformAccessors(out map[string]vql.Accessor) { out["process"] = processAccessor{} }

// processAccessor shows the memory of process N as the sparse file /N.
type processAccessor struct{}

func (processAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(vql.PathLinux, text), nil
}

func pidOf(path *vql.Path) (int, error) {
	pid, err := strconv.Atoi(path.Basename())
	if err != nil || path.Len() != 1 || pid <= 0 {
		return 0, &fs.PathError{Op: "open", Path: path.Path(), Err: fs.ErrNotExist}
	}
	return pid, nil
}

func (processAccessor) Lstat(_ context.Context, _ *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	if path.Len() == 0 {
		return &plainInfo{path: path, mode: fs.ModeDir | 0o555}, nil
	}
	pid, err := pidOf(path)
	if err != nil {
		return nil, err
	}
	if _, err := readStat(pid); err != nil {
		return nil, err
	}
	return processInfo(path), nil
}

func processInfo(path *vql.Path) vql.FileInfo {
	return &plainInfo{name: path.Basename(), path: path, mode: 0o400}
}

func (processAccessor) ReadDir(ctx context.Context, _ *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	if path.Len() > 0 {
		return nil, &fs.PathError{Op: "list", Path: path.Path(), Err: unix.ENOTDIR}
	}
	pids, err := listPids(ctx)
	if err != nil {
		return nil, err
	}
	var out []vql.FileInfo
	for _, pid := range pids {
		out = append(out, processInfo(path.Append(strconv.Itoa(pid))))
	}
	return out, nil
}

func (processAccessor) Open(_ context.Context, _ *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	pid, err := pidOf(path)
	if err != nil {
		return nil, err
	}
	ranges, err := memoryRanges(pid)
	if err != nil {
		return nil, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, err
	}
	return &rangedFile{ranges: ranges, closer: mem, readAt: func(p []byte, offset int64) (int, error) {
		return readMemory(mem, p, offset)
	}}, nil
}

// readMemory reads what it can. A page that cannot be read though it is mapped, as
// of a device, reads as zeros, so that one page does not hide the rest.
func readMemory(mem *os.File, p []byte, offset int64) (int, error) {
	n, err := mem.ReadAt(p, offset)
	if n > 0 || err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ESRCH) {
		return 0, io.EOF // the process is gone
	}
	page := int64(os.Getpagesize())
	p = p[:min(int64(len(p)), page-offset%page)]
	clear(p)
	return len(p), nil
}

// memoryRanges lists what is mapped, with the gaps as sparse parts. Addresses that
// a file offset cannot express belong to the kernel and are left out.
func memoryRanges(pid int) ([]vql.Range, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	var out []vql.Range
	at := int64(0)
	for _, m := range parseMaps(data) {
		start, end := int64(m.start), int64(m.end)
		if start < at || end <= start || m.perms == "" || m.perms[0] != 'r' {
			continue
		}
		if start > at {
			out = append(out, vql.Range{Offset: at, Length: start - at, Sparse: true})
		}
		out = append(out, vql.Range{Offset: start, Length: end - start})
		at = end
	}
	return out, nil
}
