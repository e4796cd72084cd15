package filestore

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxCacheSeconds is the longest attribute caching that leases live with; it
// is the default of Linux (nfs(5): acregmax, acdirmax).
const maxCacheSeconds = 60

// mount is one line of mountinfo, as far as we look at it.
type mount struct {
	point   string
	fsType  string
	options []string // of the mount and of its superblock
}

// mountFit judges the options of the mount that the store lies on. Where the
// system has no mountinfo, only the probe decides.
func (s *Store) mountFit() error {
	if s.root == "" {
		return nil
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil // not Linux, or no /proc: nothing is known against the mount
	}
	root, err := filepath.Abs(s.root)
	if err != nil {
		return err
	}
	if resolved, err := filepath.EvalSymlinks(root); err == nil {
		root = resolved
	}
	m, ok := mountOf(table, root)
	if !ok {
		return nil
	}
	return m.fit()
}

// mountOf returns the mount that a path lies on: the longest mount point above
// it, the last one mounted if several are stacked.
func mountOf(mountinfo []byte, path string) (found mount, ok bool) {
	for line := range bytes.Lines(mountinfo) {
		m, valid := parseMount(string(line))
		if valid && beneath(path, m.point) && (!ok || len(m.point) >= len(found.point)) {
			found, ok = m, true
		}
	}
	return found, ok
}

func beneath(path, point string) bool {
	return path == point || point == "/" || strings.HasPrefix(path, point+"/")
}

// parseMount reads a line as proc_pid_mountinfo(5) has it:
// id parent major:minor root point options [tags] - type source superoptions.
func parseMount(line string) (mount, bool) {
	head, tail, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(head), strings.Fields(tail)
	if !ok || len(left) < 6 || len(right) < 3 {
		return mount{}, false
	}
	options := append(strings.Split(left[5], ","), strings.Split(right[2], ",")...)
	return mount{point: unescapeMount(left[4]), fsType: right[0], options: options}, true
}

// unescapeMount undoes the octal escapes of space, tab, newline and backslash.
func unescapeMount(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if code, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// fit refuses NFS mounts whose calls may fail on time-out (soft), that do not
// check on open whether a file changed (nocto), or that cache attributes for
// longer than 60 s.
func (m mount) fit() error {
	if m.fsType != "nfs" && m.fsType != "nfs4" {
		return nil
	}
	for _, option := range m.options {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "soft", "softerr", "nocto":
			return fmt.Errorf("%s is mounted with %s", m.point, name)
		case "acregmin", "acregmax", "acdirmin", "acdirmax", "actimeo":
			if seconds, err := strconv.Atoi(value); err != nil || seconds > maxCacheSeconds {
				return fmt.Errorf("%s is mounted with %s, more than %d s", m.point, option, maxCacheSeconds)
			}
		}
	}
	return nil
}
