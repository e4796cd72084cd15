package ebpf

import "golang.org/x/sys/unix"

// machineCalls are older calls that arm64 never had; programs may still use them,
// and an intruder may on purpose.
var machineCalls = []event{
	{name: "open", number: unix.SYS_OPEN, doc: "Opened a file.", args: []arg{pathname, {"flags", argOpen}, mode}},
	{name: "creat", number: unix.SYS_CREAT, doc: "Made a file.", args: []arg{pathname, mode}},
	{name: "unlink", number: unix.SYS_UNLINK, doc: "Removed a name.", args: []arg{pathname}},
	{name: "rmdir", number: unix.SYS_RMDIR, doc: "Removed a directory.", args: []arg{pathname}},
	{name: "rename", number: unix.SYS_RENAME, doc: "Renamed a file.", args: []arg{{"oldpath", argPath}, {"newpath", argPath}}},
	{name: "link", number: unix.SYS_LINK, doc: "Gave a file another name.", args: []arg{{"oldpath", argPath}, {"newpath", argPath}}},
	{name: "symlink", number: unix.SYS_SYMLINK, doc: "Made a symbolic link.", args: []arg{{"target", argPath}, {"linkpath", argPath}}},
	{name: "chmod", number: unix.SYS_CHMOD, doc: "Changed the mode of a file.", args: []arg{pathname, mode}},
	{name: "chown", number: unix.SYS_CHOWN, doc: "Changed the owner of a file.", args: []arg{pathname, {"owner", argInt}, {"group", argInt}}},
	{name: "lchown", number: unix.SYS_LCHOWN, doc: "Changed the owner of a link.", args: []arg{pathname, {"owner", argInt}, {"group", argInt}}},
}
