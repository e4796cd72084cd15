package endpoint_test

import (
	"os"
	"strings"
	"testing"
)

func TestVFSListGoesDownLevelByLevel(t *testing.T) {
	root := tree(t, map[string]string{"a/b/c": "deep", "a/x": "12345", "z": "", "l": "->a"})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT Name, Size, Idx, Accessor, Stats FROM vfs_ls(path=Root) WHERE Name != 'a' AND NOT Stats`,
		`{"Name":"l","Size":1,"Idx":1,"Accessor":"auto","Stats":null}`, `{"Name":"z","Size":0,"Idx":2,"Accessor":"auto","Stats":null}`)
	s.want(`SELECT basename(path=OSPath) AS F, Stats.StartIdx AS S, Stats.EndIdx AS E, Stats.Error AS X FROM vfs_ls(path=Root, depth=1, accessor='file') WHERE Stats`,
		`{"F":"`+root[strings.LastIndex(root, "/")+1:]+`","S":0,"E":3,"X":""}`, `{"F":"a","S":3,"E":5,"X":""}`)
	s.want(`SELECT Name, Components[-1] AS C, Idx FROM vfs_ls(path=Root, depth=5) WHERE Name = 'c'`, `{"Name":"c","C":"c","Idx":5}`)
	s.want(`SELECT Name FROM vfs_ls(components=path_split(path=Root) + 'a') WHERE NOT Stats`, `{"Name":"b"}`, `{"Name":"x"}`)
}

// This machine's own files.
func TestVFSListReadsRealFolders(t *testing.T) {
	if _, err := os.Stat("/etc/passwd"); err != nil {
		t.Skip("no such file here")
	}
	s := newSession(t, nil)
	s.want(`SELECT FullPath, Components, Mode =~ '^-r' AS R, Size > 0 AS S, Mtime > 0 AS M FROM vfs_ls(path='/etc') WHERE Name = 'passwd'`,
		`{"FullPath":"/etc/passwd","Components":["etc","passwd"],"R":true,"S":true,"M":true}`)
}

func TestVFSListTellsWhatItCannotList(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT Stats.StartIdx AS S, Stats.EndIdx AS E, len(list=Stats.Error) > 0 AS X FROM vfs_ls(path='/nonexistent')`, `{"S":0,"E":0,"X":true}`)
	s.wantLog("vfs_ls: ")
	s.want(`SELECT * FROM vfs_ls(path='/', depth=31)`)
	s.want(`SELECT * FROM vfs_ls(path='/', accessor='nothing')`)
	s.wantLog("unknown accessor")
}
