package pool

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"raptorpack/vql"
)

// fileAccessor shows the files of the session's synthetic host: glob, read_file,
// upload and the parsers work on them as they are.
type fileAccessor struct{}

// node is one name of a host's tree.
type node struct {
	name    string
	path    *vql.Path
	mode    fs.FileMode
	changed time.Time
	text    string
	noise   int64 // bytes of noise instead of text
	below   map[string]*node
}

func (fileAccessor) ParsePath(text string) (*vql.Path, error) {
	if len(text) > 1 && text[1] == ':' || strings.Contains(text, `\`) && !strings.HasPrefix(text, "{") {
		return vql.ParsePath(vql.PathWindows, text), nil
	}
	return vql.ParsePath(vql.PathLinux, text), nil
}

func (a fileAccessor) Lstat(_ context.Context, scope *vql.Scope, p *vql.Path) (vql.FileInfo, error) {
	n, err := find(scope, p, "lstat")
	if err != nil {
		return nil, err
	}
	return fileInfo{n}, nil
}

func (a fileAccessor) ReadDir(ctx context.Context, scope *vql.Scope, p *vql.Path) ([]vql.FileInfo, error) {
	n, err := find(scope, p, "readdir")
	if err != nil {
		return nil, err
	}
	if err := scope.Charge(ctx); err != nil {
		return nil, err
	}
	nodes := slices.SortedFunc(maps.Values(n.below), func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	out := make([]vql.FileInfo, len(nodes))
	for i, n := range nodes {
		out[i] = fileInfo{n}
	}
	return out, nil
}

func (a fileAccessor) Open(_ context.Context, scope *vql.Scope, p *vql.Path) (vql.ReadSeekCloser, error) {
	n, err := find(scope, p, "open")
	if err != nil {
		return nil, err
	}
	if !n.mode.IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: p.Path(), Err: fs.ErrInvalid}
	}
	if n.noise > 0 {
		return &noise{size: n.noise}, nil
	}
	return unclosed{bytes.NewReader([]byte(n.text))}, nil
}

type unclosed struct{ *bytes.Reader }

func (unclosed) Close() error { return nil }

type treeKey struct{}

// find walks to a name. The tree lives as long as the session.
func find(scope *vql.Scope, p *vql.Path, op string) (*node, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	made, err := scope.Cache().Get(treeKey{}, func() (any, error) { return h.tree(), nil })
	if err != nil {
		return nil, err
	}
	at, ok := made.(*node)
	if !ok {
		return nil, errNoHost
	}
	for _, part := range p.Components() {
		if at = at.below[part]; at == nil {
			return nil, &fs.PathError{Op: op, Path: p.Path(), Err: fs.ErrNotExist}
		}
	}
	return at, nil
}

// tree makes the host's files.
func (h *Host) tree() *node {
	t := &planter{root: &node{mode: fs.ModeDir | 0o755, path: vql.NewPath(vql.PathLinux)}, changed: h.booted()}
	if h.system == "windows" {
		t.root.path = vql.NewPath(vql.PathWindows)
		h.plantWindows(t)
	} else {
		h.plantUnix(t)
	}
	for name, size := range h.fleet.bulk {
		t.file("/srv/bulk/"+name, "").noise = size
	}
	return t.root
}

func (h *Host) plantUnix(t *planter) {
	homes := map[string]string{"linux": "/home/", "darwin": "/Users/"}[h.system]
	passwd := "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
	for _, a := range h.accounts() {
		home := homes + a.name
		passwd += fmt.Sprintf("%s:x:%d:%d:%s:%s:/bin/bash\n", a.name, a.uid, a.uid, a.full, home)
		t.file(home+"/.ssh/authorized_keys", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"+h.token(a.name, 43)+" "+a.name+"@"+h.name()+"\n")
		t.file(home+"/.ssh/known_hosts", h.other(h.number+1).fqdn()+" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"+h.token("known"+a.name, 43)+"\n")
		t.file(home+"/.bash_history", "ls -l\ncd /var/log\ntail -f syslog\nssh "+h.other(h.number+1).name()+"\n")
		for n := range 3 {
			t.file(fmt.Sprintf("%s/Documents/report-%d.txt", home, n), strings.Repeat(h.token(fmt.Sprint(a.name, n), 60)+"\n", 20))
		}
	}
	_, name, version, _ := h.platform()
	t.file("/etc/passwd", passwd)
	t.file("/etc/group", "root:x:0:\nsudo:x:27:"+h.accounts()[0].name+"\n")
	t.file("/etc/hostname", h.name()+"\n")
	t.file("/etc/hosts", "127.0.0.1 localhost\n"+h.address()+" "+h.fqdn()+" "+h.name()+"\n")
	t.file("/etc/os-release", fmt.Sprintf("ID=%s\nVERSION_ID=%q\n", name, version))
	t.file("/etc/crontab", "17 * * * * root run-parts --report /etc/cron.hourly\n")
	t.file("/etc/ssh/sshd_config", "PermitRootLogin no\nPasswordAuthentication no\n")
	t.file("/var/log/auth.log", h.logins())
	for _, line := range programs[h.system] {
		exe, _, _ := strings.Cut(line, " ")
		t.file(exe, "\x7fELF"+h.token(exe, 400)).mode = 0o755
	}
}

func (h *Host) plantWindows(t *planter) {
	for _, a := range h.accounts() {
		for n := range 3 {
			t.file(fmt.Sprintf("C:/Users/%s/Documents/report-%d.txt", a.name, n), strings.Repeat(h.token(fmt.Sprint(a.name, n), 60)+"\r\n", 20))
		}
		t.file("C:/Users/"+a.name+"/NTUSER.DAT", "regf"+h.token(a.name, 500))
	}
	t.file("C:/Windows/System32/drivers/etc/hosts", h.address()+" "+h.name()+"\r\n")
	for _, line := range programs["windows"] {
		exe, _, _ := strings.Cut(line, " ")
		t.file(strings.ReplaceAll(exe, `\`, "/"), "MZ"+h.token(exe, 400))
	}
}

// logins is what sshd wrote.
func (h *Host) logins() string {
	r, accounts := h.chance("logins"), h.accounts()
	at := h.booted()
	var text strings.Builder
	for range 20 + r.IntN(60) {
		at = at.Add(time.Duration(r.IntN(3600)) * time.Second)
		fmt.Fprintf(&text, "%s %s sshd[%d]: Accepted publickey for %s from %s port %d ssh2: ED25519 SHA256:%s\n", at.Format("Jan _2 15:04:05"), h.name(),
			1000+r.IntN(60_000), accounts[r.IntN(len(accounts))].name, h.other(r.IntN(10_000)).address(), 1024+r.IntN(60_000), h.token("key", 43))
	}
	return text.String()
}

// token is text that looks like chance and is this host's own.
func (h *Host) token(subject string, length int) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	r := h.chance("token " + subject)
	out := make([]byte, length)
	for i := range out {
		out[i] = letters[r.IntN(len(letters))]
	}
	return string(out)
}

// planter adds files to a tree.
type planter struct {
	root    *node
	changed time.Time
}

func (t *planter) file(name, text string) *node {
	at := t.root
	parts := strings.Split(strings.Trim(path.Clean(name), "/"), "/")
	for i, part := range parts {
		next := at.below[part]
		if next == nil {
			next = &node{name: part, path: at.path.Append(part), mode: fs.ModeDir | 0o755, changed: t.changed}
			if i == len(parts)-1 {
				next.mode = 0o644
			}
			if at.below == nil {
				at.below = map[string]*node{}
			}
			at.below[part] = next
		}
		at = next
	}
	at.text = text
	return at
}

// fileInfo is what queries see of a node.
type fileInfo struct{ n *node }

func (i fileInfo) Name() string           { return i.n.name }
func (i fileInfo) OSPath() *vql.Path      { return i.n.path }
func (i fileInfo) Mode() fs.FileMode      { return i.n.mode }
func (i fileInfo) IsDir() bool            { return i.n.mode.IsDir() }
func (i fileInfo) IsLink() bool           { return false }
func (i fileInfo) Mtime() time.Time       { return i.n.changed }
func (i fileInfo) Atime() time.Time       { return i.n.changed }
func (i fileInfo) Ctime() time.Time       { return i.n.changed }
func (i fileInfo) Btime() time.Time       { return i.n.changed }
func (i fileInfo) Data() *vql.Dict        { return vql.NewDict() }
func (fileInfo) Link() (*vql.Path, error) { return nil, errors.ErrUnsupported }

func (i fileInfo) Size() int64 {
	if i.n.noise > 0 {
		return i.n.noise
	}
	return int64(len(i.n.text))
}

// noise reads as bytes that follow from their offset and do not compress.
type noise struct{ size, at int64 }

func (r *noise) Read(p []byte) (int, error) {
	if r.at >= r.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.size-r.at)]
	var word [8]byte
	for done := 0; done < len(p); {
		place := r.at + int64(done)
		binary.LittleEndian.PutUint64(word[:], mix(uint64(place/8)))
		done += copy(p[done:], word[place%8:])
	}
	r.at += int64(len(p))
	return len(p), nil
}

// mix is the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (r *noise) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return r.at, fs.ErrInvalid
	}
	r.at = offset
	return offset, nil
}

func (r *noise) Close() error { return nil }
