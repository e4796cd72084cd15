//go:build amd64 || arm64

package ebpf

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// kernel holds what the programs must know of the running kernel: where members
// lie in its structures.
type kernel struct {
	realParent, tgid, pid, mm, exitCode, signal, compat int32 // of task_struct
	cred, euid                                          int32 // of task_struct, of cred
	live                                                int32 // of signal_struct
	argStart, argEnd, envStart, envEnd                  int32 // of mm_struct
	filename                                            int32 // of linux_binprm
	cgroups                                             int32 // of task_struct
	subsystem                                           int32 // of css_set: the pointer to a cgroup, or to a subsystem's state
	stateCgroup                                         int32 // of cgroup_subsys_state; -1 when subsystem is a cgroup
	kernfs                                              int32 // of cgroup
	nodeName, nodeParent                                int32 // of kernfs_node
	number                                              int32 // of pt_regs: the call's number
	arguments                                           [6]int32
	namespace                                           namespace
	paths                                               pathOffsets
}

// known keeps what was read of the kernel, which stays as it is until the machine
// starts anew: reading takes megabytes and tens of milliseconds.
var known atomic.Pointer[kernel]

func thisKernel() (*kernel, error) {
	if k := known.Load(); k != nil {
		return k, nil
	}
	k, err := readKernel()
	if err != nil {
		return nil, err // to be tried again by the next
	}
	known.Store(k)
	return k, nil
}

// readKernel looks the offsets up in the kernel's own description of its types.
func readKernel() (*kernel, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("%w: read the kernel's BTF: %w", ErrUnsupported, err)
	}
	l := &layouts{spec: spec}
	ns, err := ownNamespace()
	if err != nil {
		return nil, err
	}
	k := &kernel{
		namespace:  ns,
		realParent: l.offset("task_struct", "real_parent"), tgid: l.offset("task_struct", "tgid"),
		pid: l.offset("task_struct", "pid"), mm: l.offset("task_struct", "mm"),
		exitCode: l.offset("task_struct", "exit_code"), signal: l.offset("task_struct", "signal"),
		cgroups: l.offset("task_struct", "cgroups"),
		cred:    l.offset("task_struct", "cred"), euid: l.offset("cred", "euid"),
		live: l.offset("signal_struct", "live"), filename: l.offset("linux_binprm", "filename"),
		argStart: l.offset("mm_struct", "arg_start"), argEnd: l.offset("mm_struct", "arg_end"),
		envStart: l.offset("mm_struct", "env_start"), envEnd: l.offset("mm_struct", "env_end"),
		kernfs: l.offset("cgroup", "kn"), nodeName: l.offset("kernfs_node", "name"),
		nodeParent: l.either("kernfs_node", "__parent", "parent"), // renamed in 6.15
	}
	k.paths = l.paths()
	k.subsystem, k.stateCgroup = l.cgroupOf()
	k.registers(l)
	if l.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, l.err)
	}
	return k, nil
}

// pathOffsets lead from a task to the names of its working directory.
type pathOffsets struct {
	fs                                           int32 // of task_struct
	dentry, mount                                int32 // of fs_struct: of its working directory
	parent, name                                 int32 // of dentry
	vfsmount, mountParent, mountPoint, mountRoot int32 // of mount, the last of its vfsmount
}

func (l *layouts) paths() pathOffsets {
	return pathOffsets{
		fs:     l.offset("task_struct", "fs"),
		dentry: l.offset("fs_struct", "pwd", "dentry"), mount: l.offset("fs_struct", "pwd", "mnt"),
		parent: l.offset("dentry", "d_parent"), name: l.offset("dentry", "d_name", "name"),
		vfsmount: l.offset("mount", "mnt"), mountParent: l.offset("mount", "mnt_parent"),
		mountPoint: l.offset("mount", "mnt_mountpoint"), mountRoot: l.offset("vfsmount", "mnt_root"),
	}
}

// namespace names our own namespace of process ids.
type namespace struct{ device, inode uint64 }

func ownNamespace() (namespace, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return namespace{}, fmt.Errorf("find our namespace of processes: %w", err)
	}
	// stat spreads a device's number over 64 bits; inside the kernel it has 32.
	device := uint64(unix.Major(st.Dev))<<20 | uint64(unix.Minor(st.Dev))
	return namespace{device: device, inode: st.Ino}, nil
}

// layouts finds offsets and keeps the first error.
type layouts struct {
	spec *btf.Spec
	err  error
}

func (l *layouts) fail(err error) int32 {
	l.err = errors.Join(l.err, err)
	return 0
}

func (l *layouts) offset(structure string, path ...string) int32 {
	var at *btf.Struct
	if err := l.spec.TypeByName(structure, &at); err != nil {
		return l.fail(fmt.Errorf("struct %s: %w", structure, err))
	}
	var members []btf.Member = at.Members
	total := uint32(0)
	for _, name := range path {
		m, base, ok := find(members, name)
		if !ok {
			return l.fail(fmt.Errorf("struct %s has no member %s", structure, name))
		}
		total += base
		members = membersOf(m.Type)
	}
	if total > maxOffset {
		return l.fail(fmt.Errorf("struct %s: %v lies at %d", structure, path, total))
	}
	return int32(total)
}

// maxOffset bounds what a structure may measure: task_struct has some 10 KiB.
const maxOffset = 1 << 20

func (l *layouts) either(structure string, names ...string) int32 {
	var at *btf.Struct
	if err := l.spec.TypeByName(structure, &at); err != nil {
		return l.fail(fmt.Errorf("struct %s: %w", structure, err))
	}
	for _, name := range names {
		if _, base, ok := find(at.Members, name); ok {
			return int32(base)
		}
	}
	return l.fail(fmt.Errorf("struct %s has none of the members %v", structure, names))
}

// find looks for a member, also inside members that have no name themselves, and
// gives its offset in bytes.
func find(members []btf.Member, name string) (btf.Member, uint32, bool) {
	for _, m := range members {
		if m.Name == name {
			return m, m.Offset.Bytes(), true
		}
		if m.Name != "" {
			continue
		}
		if found, base, ok := find(membersOf(m.Type), name); ok {
			return found, m.Offset.Bytes() + base, true
		}
	}
	return btf.Member{}, 0, false
}

func membersOf(t btf.Type) []btf.Member {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		return t.Members
	case *btf.Union:
		return t.Members
	}
	return nil
}

// cgroupOf says how to come from a css_set to the cgroup that names a container.
// The pids controller leads there in both versions of cgroups: in version 2 its
// state belongs to the one hierarchy, in version 1 to its own.
func (l *layouts) cgroupOf() (subsystem, state int32) {
	var ids *btf.Enum
	if err := l.spec.TypeByName("cgroup_subsys_id", &ids); err == nil {
		for _, controller := range []string{"pids_cgrp_id", "memory_cgrp_id"} {
			for _, v := range ids.Values {
				if v.Name == controller && v.Value < 64 {
					return l.offset("css_set", "subsys") + 8*int32(v.Value), l.offset("cgroup_subsys_state", "cgroup")
				}
			}
		}
	}
	return l.offset("css_set", "dfl_cgrp"), -1
}
