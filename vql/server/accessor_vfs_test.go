package server_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"raptorpack/flows"
	"raptorpack/ids"
)

// browser has the artifacts of the file browser.
func (w *world) browser() {
	w.t.Helper()
	for _, name := range []string{"System.VFS.ListDirectory", "System.VFS.DownloadFile"} {
		m, _, err := w.artifacts.PlanSet(ids.RootOrg, "name: "+name+"\nsources:\n- query: SELECT * FROM glob(globs='/*')\n", "ada")
		w.apply(m, err)
	}
}

// listed is a flow that listed folders; a file is written as path:size, a folder path/.
func (w *world) listed(files ...string) flows.Key {
	w.t.Helper()
	const name = "System.VFS.ListDirectory"
	key := w.start(w.one, flows.Artifact{Name: name})
	var b strings.Builder
	for _, file := range files {
		text, size, _ := strings.Cut(file, ":")
		parts := strings.Split(strings.Trim(text, "/"), "/")
		mode, dir := "-rw-r-----", strings.HasSuffix(text, "/")
		if dir {
			mode, size = "drwxr-xr-x", "4096"
		}
		fmt.Fprintf(&b, `{"Components":["%s"],"_Accessor":"auto","Name":%q,"Size":%s,"Mode":%q,"mtime":"2026-11-22T10:00:00.5Z","IsDir":%v,"_Data":{"Dev":7}}`+"\n",
			strings.Join(parts, `","`), parts[len(parts)-1], size, mode, dir)
	}
	w.ingest(key, lines(name, 0, len(files), b.String()), ended(int64(len(files)), 0))
	return key
}

func TestVFSShowsTheNewestListingOfEachFolder(t *testing.T) {
	w := newWorld(t)
	w.browser()
	w.listed("/home/", "/etc/", "/gone:1")
	w.listed("/etc/passwd:10", "/etc/old:5")
	w.listed("/home/", "/etc/", "/new:2")
	w.listed("/etc/passwd:12")
	s := w.session(these{"READ_RESULTS", "FILESYSTEM_READ"}, nil, w.host("rex"))
	id := w.one.String()
	s.want(`SELECT OSPath, Size, IsDir FROM glob(globs='/**', root='/`+id+`/auto', accessor='vfs')`,
		`{"OSPath":"/`+id+`/auto/etc","Size":4096,"IsDir":true}`, `{"OSPath":"/`+id+`/auto/home","Size":4096,"IsDir":true}`,
		`{"OSPath":"/`+id+`/auto/new","Size":2,"IsDir":false}`, `{"OSPath":"/`+id+`/auto/etc/passwd","Size":12,"IsDir":false}`)
	s.want(`SELECT Name, Mode.String AS M, Mtime = timestamp(string='2026-11-22T10:00:00.5Z') AS T, Data FROM stat(filename='/`+id+`/auto/etc/passwd', accessor='vfs')`,
		`{"Name":"passwd","M":"-rw-r-----","T":true,"Data":{"Dev":7}}`)
	s.want(`SELECT * FROM glob(globs='/*', accessor='vfs')`)
	s.want(`LET ClientId = '`+id+`' SELECT Name FROM glob(globs='/auto/e*', accessor='vfs')`, `{"Name":"etc"}`)
	s.want(`SELECT * FROM glob(globs='/*', root='/` + w.two.String() + `', accessor='vfs')`)
}

func TestVFSOpensWhatWasDownloaded(t *testing.T) {
	w := newWorld(t)
	w.browser()
	w.listed("/etc/passwd:5", "/etc/shadow:5")
	key := w.start(w.one, flows.Artifact{Name: "System.VFS.DownloadFile"})
	w.ingest(key, append(upload(0, "hello"), ended(0, 1))...)
	s := w.session(these{"READ_RESULTS", "FILESYSTEM_READ"}, nil, w.host("rex"))
	path := "/" + w.one.String() + "/file/etc/"
	s.want(`SELECT read_file(filename='`+path+`passwd', accessor='vfs') AS A, read_file(filename='`+path+`shadow', accessor='vfs') AS B FROM scope()`, `{"A":"hello","B":""}`)
	s.wantLog("nobody has downloaded it")
}

func TestVFSNeedsReadResults(t *testing.T) {
	w := newWorld(t)
	w.browser()
	w.listed("/etc/:0")
	s := w.session(these{"FILESYSTEM_READ"}, nil, w.host("eve"))
	s.want(`SELECT * FROM glob(globs='/` + w.one.String() + `/**', accessor='vfs')`)
	s.wantLog("READ_RESULTS is needed")
}

// Rows are foreign bytes: what makes no sense is left out, nothing else is lost.
func TestVFSTakesNoHarmFromOddRows(t *testing.T) {
	w := newWorld(t)
	w.browser()
	const name = "System.VFS.ListDirectory"
	key := w.start(w.one, flows.Artifact{Name: name})
	odd := []string{
		`{}`, `{"Components":"x","_Accessor":"auto"}`, `{"Components":[1],"_Accessor":"auto"}`, `{"Components":[],"_Accessor":"auto"}`,
		`{"Components":["a"],"_Accessor":7}`, `{"Components":["..","b"],"_Accessor":"auto","Size":"big","Mode":"?","mtime":"never","IsDir":"yes","_Data":1}`,
	}
	w.ingest(key, lines(name, 0, len(odd), strings.Join(odd, "\n")+"\n"), ended(int64(len(odd)), 0))
	s := w.session(these{"READ_RESULTS", "FILESYSTEM_READ"}, nil, w.host("rex"))
	s.want(`SELECT Name, Size, IsDir, Data FROM glob(globs='/**', root='/`+w.one.String()+`', accessor='vfs') WHERE Name = 'b'`,
		`{"Name":"b","Size":0,"IsDir":false,"Data":{}}`)
}

type these []string

func (all these) Allowed(permission string) bool { return slices.Contains(all, permission) }
