package server_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"raptorpack/artifacts"
	"raptorpack/ids"
	"raptorpack/inventory"
	"raptorpack/proto/buspb"
	"raptorpack/vql/server"
)

func TestRepackCopiesAProgram(t *testing.T) {
	w := newWorld(t)
	host := w.host("ada")
	host.Repack = func(to io.Writer, program io.ReaderAt, size int64, config []byte, files []server.Packed) error {
		if string(config) == "bad" {
			return io.ErrUnexpectedEOF
		}
		_, err := io.Copy(to, io.NewSectionReader(program, 0, size))
		fmt.Fprintf(to, "+%s", config)
		for _, f := range files {
			from, err := f.Open()
			if err != nil {
				return err
			}
			text, err := io.ReadAll(from)
			if err = errors.Join(err, from.Close()); err != nil {
				return err
			}
			fmt.Fprintf(to, "+%s=%s", f.Name, text)
		}
		return err
	}
	s := w.session(roles{"administrator"}, nil, host)
	dir := t.TempDir()
	exe := filepath.Join(dir, "exe")
	must(t, os.WriteFile(exe, []byte("program"), 0o600))
	call := func(more string) string {
		return `SELECT repack(exe='` + exe + `', config='text', dest_filename='` + dir + `/out'` + more + `) AS R FROM scope()`
	}
	s.want(call(""), `{"R":{"Path":"`+dir+`/out"}}`)
	if got, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || string(got) != "program+text" {
		t.Errorf("%q, %v", got, err)
	}
	s.want(call(""), `{"R":null}`) // it never replaces
	s.wantLog("exists")
	s.want(call(`, binaries='x'`), `{"R":null}`)
	s.wantLog("not available") // this host knows no tools
	s.want(`SELECT repack(exe='`+exe+`', config='bad', dest_filename='`+dir+`/bad') AS R FROM scope()`, `{"R":null}`)
	if _, err := os.Stat(filepath.Join(dir, "bad")); err == nil {
		t.Error("a half program is left behind")
	}
	s.want(`SELECT repack(exe='`+exe+`', config='text') AS R FROM scope()`, `{"R":null}`)
	s.wantLog("nowhere to upload")
	analyst := w.session(roles{"analyst"}, nil, host)
	analyst.want(call(""), `{"R":null}`)
	analyst.wantLog("COLLECT_SERVER")
}

// shelf is an inventory whose files are in memory.
type shelf struct {
	t       *testing.T
	room    *inventory.Room
	entries uint64
	files   map[string]string // what is stored, by the hash that it should have
	remote  map[string]string // what a fetch brings, by the tool
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{t: t, files: map[string]string{}, remote: map[string]string{}}
	s.room = inventory.New(inventory.Options{Declared: func(ids.Org) []artifacts.DeclaredTool {
		return []artifacts.DeclaredTool{{Artifact: "A", Tool: artifacts.Tool{Name: "far", URL: "https://x.example/far.exe"}}}
	}})
	return s
}

// store makes a text the file of a tool.
func (s *shelf) store(name, version, text string) string {
	s.t.Helper()
	sum := sha256.Sum256([]byte(text))
	hash := hex.EncodeToString(sum[:])
	s.files[hash] = text
	m, _, err := s.room.PlanUpload(ids.RootOrg, inventory.Upload{
		Name: name, Version: version, Filename: name + ".exe",
		File: inventory.Received{Org: ids.RootOrg, Hash: hash, Size: int64(len(text)), Path: hash[:32]},
	})
	must(s.t, err)
	s.entries++
	must(s.t, s.room.Apply(&buspb.Entry{Index: s.entries, Epoch: 1, Time: int64(s.entries), Mutation: m}))
	return hash
}

func (s *shelf) Variables(artifacts.Tool) ([]artifacts.Value, error) {
	return nil, errors.New("nobody asks for that")
}

func (s *shelf) Fetch(_ context.Context, t artifacts.Tool) error {
	text, ok := s.remote[t.Name]
	if !ok {
		return errors.New("404")
	}
	s.store(t.Name, t.Version, text)
	return nil
}

func (s *shelf) Set(context.Context, artifacts.Tool) error { return errors.New("nobody sets that") }

func (s *shelf) Upload(context.Context, io.Reader, artifacts.Tool, string) error {
	return errors.New("nobody uploads that")
}

func (s *shelf) Open(_ context.Context, t *inventory.Tool) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(s.files[t.File.Hash])), nil
}

func TestRepackTakesTools(t *testing.T) {
	w := newWorld(t)
	host := w.host("ada")
	tools := newShelf(t)
	host.Tools, host.Inventory = tools.room, tools
	host.Repack = func(to io.Writer, program io.ReaderAt, size int64, _ []byte, files []server.Packed) error {
		_, err := io.Copy(to, io.NewSectionReader(program, 0, size))
		for _, f := range files {
			from, oerr := f.Open()
			must(t, oerr)
			text, rerr := io.ReadAll(from)
			fmt.Fprintf(to, "+%s=%s", f.Name, text)
			err = errors.Join(err, rerr)
		}
		return err
	}
	tools.store("agent", "1.9", "old agent")
	tools.store("agent", "1.10", "new agent")
	damaged := tools.store("damaged", "", "as it was")
	tools.files[damaged] = "as it is"
	tools.remote["far"] = "from afar"
	s := w.session(roles{"administrator"}, nil, host)
	dir := t.TempDir()
	for i, tc := range []struct{ args, want, log string }{
		{args: `target='agent'`, want: "new agent"},
		{args: `target='agent', version='1.9'`, want: "old agent"},
		{args: `target='agent', binaries=('far', 'agent')`, want: "new agent+far.exe=from afar+agent.exe=new agent"},
		{args: `target='agent', binaries='nosuch'`, log: "nosuch"},
		{args: `target='nosuch'`, log: "nosuch"},
		{args: `target='agent', version='7'`, log: `"agent" 7`},
		{args: `target='damaged'`, log: "has SHA-256"},
		{args: `target='agent', binaries='damaged'`, log: "has SHA-256"},
		{args: `target='agent', exe='/bin/true'`, log: "target beside exe"},
		{args: `version='1'`, log: "version without target"},
	} {
		out := filepath.Join(dir, fmt.Sprint(i))
		want := `{"R":{"Path":"` + out + `"}}`
		if tc.log != "" {
			want = `{"R":null}`
		}
		s.want(`SELECT repack(`+tc.args+`, config='text', dest_filename='`+out+`') AS R FROM scope()`, want)
		got, err := os.ReadFile(out)
		if tc.log != "" {
			s.wantLog(tc.log)
			if err == nil {
				t.Errorf("%s: a half program is left behind", tc.args)
			}
			continue
		}
		if err != nil || string(got) != tc.want {
			t.Errorf("%s: %q, %v", tc.args, got, err)
		}
	}
}
