package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/vql"
)

const (
	vfsListArtifact = "System.VFS.ListDirectory"
	vfsFileArtifact = "System.VFS.DownloadFile"

	// maxVFSEntries bounds what one query keeps of a client's listings.
	maxVFSEntries = 200_000

	// maxVFSFlows bounds the flows that are read for them.
	maxVFSFlows = 500
)

// vfsAccessor shows what listings brought of a client's files: /C.…/accessor/path,
// or without the client where the variable ClientId names it. Of a folder that was
// listed more than once the newest listing counts. Files that were downloaded can be
// opened. What it knows of a client stands still while the query runs.
type vfsAccessor struct{}

func (vfsAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(vql.PathLinux, text), nil
}

// tree returns the client's tree, and the path in it.
func (vfsAccessor) tree(ctx context.Context, scope *vql.Scope, p *vql.Path) (*vfsTree, []string, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, nil, err
	}
	parts := p.Components()
	var client ids.Client
	if len(parts) > 0 {
		if client, err = ids.ParseClient(parts[0]); err == nil {
			parts = parts[1:]
		}
	}
	if client.IsZero() {
		if client, err = ids.ParseClient(scope.LookupString("ClientId")); err != nil {
			return nil, nil, fmt.Errorf("path %.200q: expected /C.…/accessor/… or the variable ClientId: %w", p.Path(), fs.ErrNotExist)
		}
	}
	kept, err := scope.Cache().Get(vfsKey{h.Org, client}, func() (any, error) {
		t := &vfsTree{host: h, client: client, downloads: map[string]vfsDownload{}}
		return t, t.load(ctx, scope)
	})
	if err != nil {
		return nil, nil, err
	}
	return kept.(*vfsTree), parts, nil
}

type vfsKey struct {
	org    ids.Org
	client ids.Client
}

// Lstat implements vql.Accessor.
func (a vfsAccessor) Lstat(ctx context.Context, scope *vql.Scope, p *vql.Path) (vql.FileInfo, error) {
	t, parts, err := a.tree(ctx, scope, p)
	if err != nil {
		return nil, err
	}
	n := t.find(parts)
	if n == nil {
		return nil, &fs.PathError{Op: "lstat", Path: p.Path(), Err: fs.ErrNotExist}
	}
	return &vfsInfo{n, p}, nil
}

// ReadDir implements vql.Accessor.
func (a vfsAccessor) ReadDir(ctx context.Context, scope *vql.Scope, p *vql.Path) ([]vql.FileInfo, error) {
	t, parts, err := a.tree(ctx, scope, p)
	if err != nil {
		return nil, err
	}
	n := t.find(parts)
	if n == nil {
		return nil, &fs.PathError{Op: "readdir", Path: p.Path(), Err: fs.ErrNotExist}
	}
	out := make([]vql.FileInfo, 0, len(n.below))
	for _, child := range n.below {
		out = append(out, &vfsInfo{child, p.Append(child.name)})
	}
	slices.SortFunc(out, func(a, b vql.FileInfo) int { return strings.Compare(a.Name(), b.Name()) })
	return out, nil
}

// Open implements vql.Accessor: files that a flow brought can be opened.
func (a vfsAccessor) Open(ctx context.Context, scope *vql.Scope, p *vql.Path) (vql.ReadSeekCloser, error) {
	t, parts, err := a.tree(ctx, scope, p)
	if err != nil {
		return nil, err
	}
	at, known := t.downloads[strings.Join(parts, "\x00")]
	if !known {
		return nil, fmt.Errorf("open %s: nobody has downloaded it from the client: %w", p.Path(), fs.ErrNotExist)
	}
	file, _, err := t.host.Flows.OpenUpload(ctx, at.key, at.number)
	if err != nil {
		return nil, err
	}
	return &storeFile{ReadSeeker: file.Expanded(ctx), close: file.Close, ctx: ctx}, nil
}

// vfsTree is what is known of one client's files. Once loaded, nobody changes it.
type vfsTree struct {
	host      *Host
	client    ids.Client
	top       vfsNode
	entries   int
	downloads map[string]vfsDownload // by accessor and components
}

type vfsDownload struct {
	key    flows.Key
	number int64
}

// vfsNode is a file or folder: of a listing, or between the top and one.
type vfsNode struct {
	name   string
	listed *vql.Dict // the row; nil: no listing had it
	lister ids.Flow  // the flow whose listing the folder's content is; zero: none
	below  map[string]*vfsNode
}

func (n *vfsNode) child(name string) *vfsNode {
	if n.below == nil {
		n.below = map[string]*vfsNode{}
	}
	c := n.below[name]
	if c == nil {
		c = &vfsNode{name: name}
		n.below[name] = c
	}
	return c
}

func (t *vfsTree) find(parts []string) *vfsNode {
	n := &t.top
	for _, part := range parts {
		if n = n.below[part]; n == nil {
			return nil
		}
	}
	return n
}

var errVFSFull = errors.New("listing is full")

// load reads the client's flows from the newest.
func (t *vfsTree) load(ctx context.Context, scope *vql.Scope) error {
	read := 0
	err := t.host.eachFlow(ctx, scope, t.client, func(f *flows.Flow) error {
		lists, brings := asksFor(f, vfsListArtifact), asksFor(f, vfsFileArtifact)
		if !lists && !brings {
			return nil
		}
		if read++; read > maxVFSFlows {
			return errVFSFull
		}
		var err error
		if lists {
			err = t.list(ctx, scope, f)
		}
		if brings && err == nil {
			err = t.download(ctx, f)
		}
		if errors.Is(err, flows.ErrNotFound) {
			return nil // deleted meanwhile
		}
		return err
	})
	if errors.Is(err, errVFSFull) {
		scope.Log(vql.LevelWarn, "vfs: of %s only the newest %d entries of at most %d flows are shown", t.client, t.entries, maxVFSFlows)
		return nil
	}
	return err
}

func asksFor(f *flows.Flow, artifact string) bool {
	return slices.ContainsFunc(f.Spec.Artifacts, func(a flows.Artifact) bool { return a.Name == artifact })
}

// list takes over the folders of a listing that no newer one had.
func (t *vfsTree) list(ctx context.Context, scope *vql.Scope, f *flows.Flow) error {
	r := &rowStream{
		scope: scope, name: vfsListArtifact + " of " + f.Flow.String(),
		read: func(p flows.Page) (*filestore.RowsPage, error) {
			return t.host.Flows.Results(ctx, f.Key, vfsListArtifact, p)
		},
		emit: func(row vql.Value) error { return t.add(row.(*vql.Dict), f.Flow) },
	}
	return r.run(ctx, 0, 0)
}

func (t *vfsTree) add(row *vql.Dict, flow ids.Flow) error {
	parts := texts(row, "Components")
	accessor, _ := row.Get("_Accessor")
	name, ok := accessor.(string)
	if !ok || len(parts) == 0 || len(parts) > 1000 {
		return nil // of no folder: nothing that can be shown
	}
	if t.entries++; t.entries > maxVFSEntries {
		return errVFSFull
	}
	folder := t.top.child(name)
	for _, part := range parts[:len(parts)-1] {
		folder = folder.child(part)
	}
	if folder.lister.IsZero() {
		folder.lister = flow
	}
	if folder.lister == flow {
		folder.child(parts[len(parts)-1]).listed = row
	}
	return nil
}

func texts(row *vql.Dict, member string) (out []string) {
	value, _ := row.Get(member)
	list, _ := value.([]any)
	for _, one := range list {
		text, ok := one.(string)
		if !ok {
			return nil
		}
		out = append(out, text)
	}
	return out
}

func (t *vfsTree) download(ctx context.Context, f *flows.Flow) error {
	if f.Uploads.Len() == 0 {
		return nil
	}
	all, err := t.host.Flows.Uploads(ctx, f.Key)
	if err != nil {
		return err
	}
	for _, u := range all {
		name := strings.Join(append([]string{u.Accessor}, u.Components...), "\x00")
		if _, newer := t.downloads[name]; !newer {
			t.downloads[name] = vfsDownload{f.Key, u.Number}
		}
	}
	return nil
}

// vfsInfo is the facts of one name, as the client told them.
type vfsInfo struct {
	node *vfsNode
	path *vql.Path
}

func (i *vfsInfo) member(name string) vql.Value {
	if i.node.listed == nil {
		return vql.NULL
	}
	value, _ := i.node.listed.Get(name)
	return value
}

func (i *vfsInfo) text(name string) string {
	text, _ := i.member(name).(string)
	return text
}

func (i *vfsInfo) time(name string) time.Time {
	at, err := time.Parse(time.RFC3339Nano, i.text(name))
	if err != nil {
		return time.Time{}
	}
	return at
}

func (i *vfsInfo) Name() string      { return i.node.name }
func (i *vfsInfo) OSPath() *vql.Path { return i.path }
func (i *vfsInfo) Size() int64       { size, _ := i.member("Size").(int64); return size }
func (i *vfsInfo) Mode() fs.FileMode { return modeOf(i.text("Mode"), i.IsDir()) }

// IsDir counts what lies between the top and a listing as folders.
func (i *vfsInfo) IsDir() bool {
	if i.node.listed == nil || len(i.node.below) > 0 {
		return true
	}
	is, _ := i.member("IsDir").(bool)
	return is
}

func (i *vfsInfo) IsLink() bool             { return i.Mode()&fs.ModeSymlink != 0 }
func (i *vfsInfo) Link() (*vql.Path, error) { return nil, fs.ErrInvalid }
func (i *vfsInfo) Mtime() time.Time         { return i.time("mtime") }
func (i *vfsInfo) Atime() time.Time         { return i.time("atime") }
func (i *vfsInfo) Ctime() time.Time         { return i.time("ctime") }
func (i *vfsInfo) Btime() time.Time         { return i.time("btime") }

// Data holds what the client's accessor told of the file.
func (i *vfsInfo) Data() *vql.Dict {
	if data, ok := i.member("_Data").(*vql.Dict); ok {
		return data
	}
	return vql.NewDict()
}

// modeOf reads the permissions of a mode as Go and ls write them.
func modeOf(text string, dir bool) (mode fs.FileMode) {
	if dir {
		mode = fs.ModeDir
	}
	if strings.HasPrefix(text, "L") || strings.HasPrefix(text, "l") {
		mode |= fs.ModeSymlink
	}
	if len(text) < 9 {
		return mode
	}
	for i, c := range []byte(text[len(text)-9:]) {
		if c != '-' {
			mode |= 1 << (8 - i)
		}
	}
	return mode
}
