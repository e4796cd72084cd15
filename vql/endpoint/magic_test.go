package endpoint_test

import (
	"os"
	"strings"
	"testing"
)

func TestMagicTellsTypes(t *testing.T) {
	root := tree(t, map[string]string{
		"pdf": "%PDF-1.7\n%\xe2\xe3\n", "png": "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "text": "hello there\n", "empty": "", "json": `{"a": 1}`,
		"gz": "\x1f\x8b\x08\x00\x00\x00\x00\x00", "cut": "\x00", "noise": "\x00\x01\x02\xff\xfe", "long": "hello" + strings.Repeat(" there", 10_000),
	})
	s := newSession(t, map[string]any{"Root": root})
	for name, want := range map[string]string{
		"pdf": `{"M":"application/pdf","E":"pdf"}`, "png": `{"M":"image/png","E":"png"}`, "text": `{"M":"text/plain; charset=utf-8","E":"txt"}`,
		"empty": `{"M":"inode/x-empty","E":""}`, "json": `{"M":"application/json","E":"json"}`, "gz": `{"M":"application/gzip","E":"gz"}`,
		"cut": `{"M":"application/octet-stream","E":""}`, "noise": `{"M":"application/octet-stream","E":""}`, "long": `{"M":"text/plain; charset=utf-8","E":"txt"}`,
	} {
		s.want(`SELECT magic(path=Root + '/`+name+`', type='mime') AS M, magic(path=Root + '/`+name+`', type='extension') AS E FROM scope()`, want)
	}
	s.want(`SELECT magic(path='%PDF-1.4', accessor='data', type='mime') AS M FROM scope()`, `{"M":"application/pdf"}`)
}

func TestMagicKnowsARealProgram(t *testing.T) {
	onLinux(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(t, map[string]any{"Self": self})
	s.want(`SELECT magic(path=Self, type='mime') =~ '^application/x-(executable|elf|sharedlib)$' AS M FROM scope()`, `{"M":true}`)
}

func TestMagicSaysWhatItCannot(t *testing.T) {
	root := tree(t, map[string]string{"a": "text"})
	for args, log := range map[string]string{
		`path=Root + '/a'`:                                  "magic: this build has no descriptions",
		`path=Root + '/a', type='odd'`:                      `magic: unknown type "odd"`,
		`path=Root + '/a', type='mime', magic='0 string x'`: "magic: this build takes no rules",
		`path=Root + '/gone', type='mime'`:                  "no such file",
		`path=Root, type='mime'`:                            "not a regular file",
	} {
		s := newSession(t, map[string]any{"Root": root})
		s.want(`SELECT magic(`+args+`) AS M FROM scope()`, `{"M":null}`)
		s.wantLog(log)
	}
}

func FuzzMagic(f *testing.F) {
	for _, seed := range []string{"%PDF-", "PK\x03\x04\x14\x00mimetype", "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "<?xml version='1.0'?><svg", "\x7fELF\x02", "{\"a\":[[[[", "a,b\n1,2\n", "ID3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data string) {
		s := newSession(t, map[string]any{"Data": data})
		s.rows(`SELECT magic(path=Data, accessor='data', type='mime') AS M, magic(path=Data, accessor='data', type='extension') AS E FROM scope()`)
		if strings.Contains(s.log(), "PANIC") {
			t.Error(s.log())
		}
	})
}
