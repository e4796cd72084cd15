package endpoint

import (
	"context"
	"errors"
	"fmt"

	"raptorpack/vql"
)

var errNotHere = errors.New("not supported on this platform")

// knownAccessors are those that we know by name alone, with the syntax of their
// paths, so that artifacts which name them load and answer clearly.
var knownAccessors = map[string]vql.PathSyntax{
	"registry": vql.PathRegistry, "reg": vql.PathRegistry, "raw_reg": vql.PathRegistry,
	"ntfs": vql.PathNTFS, "raw_ntfs": vql.PathNTFS, "lazy_ntfs": vql.PathNTFS, "ntfs_vss": vql.PathNTFS, "mft": vql.PathGeneric,
	"fat": vql.PathWindows, "smb": vql.PathGeneric, "ssh": vql.PathLinux, "winpmem": vql.PathGeneric,
	"mscfb": vql.PathGeneric, "pst": vql.PathGeneric, "vhdx": vql.PathGeneric, "vmdk": vql.PathGeneric, "ewf": vql.PathGeneric,
}

// addKnownAccessors adds those of them that out does not have.
func addKnownAccessors(out map[string]vql.Accessor) {
	for name, syntax := range knownAccessors {
		if _, ours := out[name]; !ours {
			out[name] = elsewhereAccessor{name, syntax, errNotHere}
		}
	}
}

// elsewhereAccessor parses paths and opens nothing.
type elsewhereAccessor struct {
	name   string
	syntax vql.PathSyntax
	reason error
}

func (a elsewhereAccessor) refuse() error { return fmt.Errorf("accessor %s: %w", a.name, a.reason) }

func (a elsewhereAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(a.syntax, text), nil
}

func (a elsewhereAccessor) Lstat(context.Context, *vql.Scope, *vql.Path) (vql.FileInfo, error) {
	return nil, a.refuse()
}

func (a elsewhereAccessor) ReadDir(context.Context, *vql.Scope, *vql.Path) ([]vql.FileInfo, error) {
	return nil, a.refuse()
}

func (a elsewhereAccessor) Open(context.Context, *vql.Scope, *vql.Path) (vql.ReadSeekCloser, error) {
	return nil, a.refuse()
}
