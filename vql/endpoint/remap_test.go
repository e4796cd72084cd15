package endpoint_test

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRemapShowsTheDiskOfAnotherMachine(t *testing.T) {
	onLinux(t)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, ext4Image(t, "ext4"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := tree(t, map[string]string{"note": "mounted"})
	t.Setenv("ONLY_HERE", "here")
	s := newSession(t, map[string]any{"Config": `
remappings:
- type: impersonation
  os: windows
  hostname: victim
  env:
  - key: SystemRoot
    value: C:\Windows
- type: mount
  from:
    accessor: raw_ext4
    prefix: '{"DelegateAccessor":"file","DelegatePath":"` + image + `","Path":"/"}'
  on:
    accessor: file
    prefix: /
- type: mount
  from: {accessor: file, prefix: ` + data + `}
  on: {accessor: file, prefix: /mnt/data}
- type: shadow
  from: {accessor: zip}
`})
	s.rows(`SELECT remap(config=Config) FROM scope()`)
	s.want(`SELECT OSPath FROM glob(globs='/{small.txt,link,dir/five.txt,mnt/*/*}', accessor='file')`,
		`{"OSPath":"/link"}`, `{"OSPath":"/small.txt"}`, `{"OSPath":"/dir/five.txt"}`, `{"OSPath":"/mnt/data/note"}`)
	s.want(`SELECT read_file(filename='/small.txt', accessor='file') AS A, read_file(filename='/mnt/data/note', accessor='file') AS B,
	   read_file(filename='/etc/passwd', accessor='file') AS C, read_file(filename='x', accessor='data') AS D FROM scope()`,
		`{"A":"hello\n","B":"mounted","C":"","D":"x"}`)
	s.want(`SELECT read_file(filename='/etc/passwd') AS A FROM scope()`, `{"A":""}`)
	s.wantLog("accessor auto: the remapping does not have it")
	s.want(`SELECT OS, Hostname, expand(path='%SystemRoot% $ONLY_HERE') AS E FROM info()`, `{"OS":"windows","Hostname":"victim","E":"C:\\Windows $ONLY_HERE"}`)
}

func TestRemapCopiesAndClears(t *testing.T) {
	onLinux(t)
	a, b := tree(t, map[string]string{"f": "a"}), tree(t, map[string]string{"f": "b"})
	s := newSession(t, map[string]any{
		"A": `{remappings: [{type: mount, from: {accessor: file, prefix: ` + a + `}, on: {accessor: ntfs, prefix: '\\.\C:', path_type: ntfs}}]}`,
		"B": `{remappings: [{type: mount, from: {accessor: file, prefix: ` + b + `}, on: {accessor: registry, prefix: HKEY_LOCAL_MACHINE}}]}`, "F": b + "/f",
	})
	s.rows(`SELECT remap(config=A, copy='auto') FROM scope()`)
	s.want(`SELECT read_file(filename='\\\\.\\c:\\f', accessor='ntfs') AS A, read_file(filename=F) AS B FROM scope()`, `{"A":"a","B":"b"}`)
	s.rows(`SELECT remap(config=B) FROM scope()`)
	s.want(`SELECT read_file(filename='\\\\.\\C:\\f', accessor='ntfs') AS A, read_file(filename='HKLM\\f', accessor='registry') AS B FROM scope()`, `{"A":"a","B":"b"}`)
	s.rows(`SELECT remap(config=B, clear=TRUE) FROM scope()`)
	s.want(`SELECT read_file(filename='\\\\.\\C:\\f', accessor='ntfs') AS A, read_file(filename='HKLM\\f', accessor='registry') AS B FROM scope()`, `{"A":"","B":"b"}`)
}

func TestRemapTellsBadInput(t *testing.T) {
	for config, want := range map[string]string{
		"": "it holds no remappings", "{remappings: [{type: moon}]}": `remapping 1: unknown type "moon"`, "{": "yaml:",
		"{remappings: [{type: mount, from: {accessor: none}}]}":                                                    "from: unknown accessor none",
		"{remappings: [{type: mount, from: {accessor: file}}]}":                                                    "on: the accessor is missing",
		"{remappings: [{type: mount, from: {accessor: file}, on: {accessor: file, path_type: odd}}]}":              `unknown path_type "odd"`,
		"{remappings: [{type: impersonation, disabled_plugins: [execve]}, {type: shadow, from: {accessor: zip}}]}": "1 disabled primitives stay",
	} {
		s := newSession(t, map[string]any{"Config": config})
		s.rows(`SELECT remap(config=Config) FROM scope()`)
		s.wantLog(want)
	}
}

func TestRemapLeavesOnlyThePermissionsThatItNames(t *testing.T) {
	s := newSession(t, map[string]any{
		"Few":  "{remappings: [{type: permissions, permissions: [FILESYSTEM_READ]}, {type: shadow, from: {accessor: file}}]}",
		"More": "{remappings: [{type: shadow, from: {accessor: file}}]}",
	})
	s.rows(`SELECT remap(config=Few) FROM scope()`)
	s.want(`SELECT getpid() AS A, stat(filename='/').IsDir AS B FROM scope()`, `{"A":null,"B":null}`)
	s.wantLog("getpid: permission denied: MACHINE_STATE is needed")
	s.rows(`SELECT remap(config=More) FROM scope()`)
	s.want(`SELECT getpid() AS A FROM scope()`, `{"A":null}`)
	s.rows(`SELECT remap(config=More, clear=TRUE) FROM scope()`)
	s.want(`SELECT getpid() > 0 AS A FROM scope()`, `{"A":true}`)
}
