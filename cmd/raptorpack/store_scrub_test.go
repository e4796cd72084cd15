package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/cmd/node"
	"raptorpack/filestore"
	"raptorpack/internal/testkit"
)

// scrubbed runs a scrub and returns its exit code and the kinds of what it found.
func scrubbed(t *testing.T, folder string) (code int, kinds string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run([]string{"filestore", "scrub", "--datastore", folder}, nil, &out, &errs)
	var found []string
	for line := range bytes.Lines(out.Bytes()) {
		var f finding
		if err := json.Unmarshal(line, &f); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		t.Logf("%+v", f)
		found = append(found, f.Kind)
	}
	slices.Sort(found)
	if !strings.Contains(errs.String(), " read, ") {
		t.Errorf("no summary: %s", errs.String())
	}
	return code, strings.Join(slices.Compact(found), " ")
}

// stored is a store folder of which every kind of file is there.
type stored struct {
	t           *testing.T
	dir         string
	incarnation string
}

// a returns the only or the first file that a pattern names; one that begins with
// **/ names files of any folder.
func (s stored) a(pattern string) string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.dir, filepath.FromSlash(pattern)))
	if base, anywhere := strings.CutPrefix(pattern, "**/"); anywhere {
		err = filepath.WalkDir(s.dir, func(name string, _ fs.DirEntry, err error) error {
			if filepath.Base(name) == base {
				found = append(found, name)
			}
			return err
		})
	}
	if err != nil || len(found) == 0 {
		s.t.Fatalf("no %s: %v", pattern, err)
	}
	return found[0]
}

func (s stored) flip(pattern string) {
	s.t.Helper()
	name := s.a(pattern)
	data, err := os.ReadFile(name)
	s.check(err)
	data[len(data)/2] ^= 1
	s.check(os.WriteFile(name, data, 0o600))
}

func (s stored) remove(pattern string) { s.check(os.Remove(s.a(pattern))) }

func (s stored) extend(pattern string, text []byte) {
	s.t.Helper()
	file, err := os.OpenFile(s.a(pattern), os.O_WRONLY|os.O_APPEND, 0)
	s.check(err)
	_, err = file.Write(text)
	s.check(errors.Join(err, file.Close()))
}

func (s stored) write(name, text string) {
	s.t.Helper()
	name = filepath.Join(s.dir, filepath.FromSlash(name))
	s.check(os.MkdirAll(filepath.Dir(name), 0o750))
	s.check(os.WriteFile(name, []byte(text), 0o600))
}

func (s stored) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// below is a file's path in the store.
func (s stored) below(pattern string) string {
	s.t.Helper()
	name, err := filepath.Rel(s.dir, s.a(pattern))
	s.check(err)
	return filepath.ToSlash(name)
}

// seal says how much of the files of the store's node counts.
func (s stored) seal(lengths map[string]int64) {
	s.t.Helper()
	store, err := filestore.Open(s.dir, filestore.Options{Logger: slog.New(slog.DiscardHandler)})
	s.check(err)
	s.check(errors.Join(store.SealIncarnation(s.t.Context(), s.incarnation, lengths), store.Close(s.t.Context())))
}

const (
	rowsFile   = "clients/*/*/*/collections/*/results/Linux.Mounts/*.gz"
	uploadFile = "**/one.txt"
)

// fill makes a node that ran and ended, with a snapshot, a blob, rows and uploads.
func fill(t *testing.T) stored {
	p := startTuned(t, slog.LevelError, node.Tuning{SnapshotEntries: 4})
	s := stored{t: t, dir: filepath.Join(p.dir, "store")}
	files := t.TempDir()
	s.check(os.WriteFile(filepath.Join(files, "one.txt"), bytes.Repeat([]byte("upload "), 1000), 0o600))
	for _, args := range [][]string{
		{"collect", p.client, "Linux.Mounts", "--wait"},
		{"collect", p.client, "Linux.Search.FileFinder", "--param", "SearchFilesGlob=" + files + "/*", "--param", "Upload_File=Y", "--wait"},
		{"query", `SELECT timeline_add(notebook_id="N.ONE", timeline="S", name="a", key="T", query={SELECT 1700000000 + _value AS T FROM range(end=500)}) AS X FROM scope()`},
	} {
		var errs bytes.Buffer
		if code := run(append(args, "--config", filepath.Join(p.dir, "server.yaml")), nil, &errs, &errs); code != 0 {
			t.Fatalf("%v: exit code %d: %s", args, code, errs.String())
		}
	}
	g := &globals{config: filepath.Join(p.dir, "server.yaml"), quiet: true}
	s.check(g.withRemote(command(t), func(ctx context.Context, r *remote) error {
		large := "name: Custom.Large\ndescription: " + strings.Repeat("x", 300<<10) + "\nsources:\n- query: SELECT 1 FROM scope()\n"
		return r.change(ctx, http.MethodPut, "/artifacts", map[string]string{"text": large}, nil)
	}))
	testkit.Eventually(t, "there is a snapshot and a record of each collection", func() (any, bool) {
		snapshots, _ := filepath.Glob(filepath.Join(s.dir, "snapshots/0*/manifest.jsonl"))
		views, _ := filepath.Glob(filepath.Join(s.dir, "clients/*/*/*/collections/*/flow.json"))
		state := fmt.Sprint(len(snapshots), len(views))
		return state, len(snapshots) > 0 && len(views) == 3
	})
	if code, kinds := scrubbed(t, s.dir); code != 0 || kinds != "" {
		t.Errorf("beside a live node: exit code %d, %s", code, kinds)
	}
	p.stop()
	s.incarnation = filestore.SegmentIncarnation(s.below(rowsFile))
	return s
}

func TestScrubFindsEachKindOfDamage(t *testing.T) {
	whole := fill(t)
	torn := []byte("\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff")
	for _, c := range []struct {
		name   string
		damage func(s stored)
		kinds  string
	}{
		{"none", func(stored) {}, ""},
		{"a torn end", func(s stored) { s.extend(rowsFile, torn) }, ""},
		{"a torn line of the trail", func(s stored) { s.extend("audit/*.jsonl", []byte(`{"time":`)) }, ""},
		{"bytes after a seal", func(s stored) {
			info, err := os.Stat(s.a(rowsFile))
			s.check(err)
			s.seal(map[string]int64{s.below(rowsFile): info.Size()})
			s.extend(rowsFile, torn)
		}, ""},
		{"a collection that was deleted after a seal", func(s stored) {
			s.seal(map[string]int64{"clients/00/00/server/collections/F.X/results/A/" + s.incarnation + ".jsonl.gz": 100})
		}, ""},
		{"rows", func(s stored) { s.flip(rowsFile) }, "checksum missing_rows"},
		{"rows of a timeline", func(s stored) { s.flip("notebooks/N.ONE/timelines/S/*/*.gz") }, "checksum"},
		{"garbage after rows", func(s stored) { s.extend(rowsFile, bytes.Repeat([]byte("garbage"), 100)) }, "checksum"},
		{"a segment is gone", func(s stored) { s.remove(rowsFile) }, "missing_rows"},
		{"a segment is shorter than its seal says", func(s stored) {
			info, err := os.Stat(s.a(rowsFile))
			s.check(err)
			s.seal(map[string]int64{s.below(rowsFile): info.Size() + 100})
		}, "lost"},
		{"a sealed segment is gone", func(s stored) {
			s.seal(map[string]int64{s.below(rowsFile): 100})
			s.remove(rowsFile)
		}, "lost missing_rows"},
		{"a seal", func(s stored) {
			s.seal(nil)
			s.flip("nodes/*/*.seal")
			s.write("nodes/"+s.incarnation[:strings.LastIndexByte(s.incarnation, '-')]+"/1.seal", "{")
		}, "unreadable"},
		{"an upload", func(s stored) { s.flip(uploadFile) }, "upload"},
		{"an upload is gone", func(s stored) { s.remove(uploadFile) }, "upload"},
		{"the list of uploads is gone", func(s stored) { s.remove("clients/*/*/*/collections/*/uploads/*.gz") }, "upload"},
		{"a collection's record", func(s stored) { s.write(s.below("clients/*/*/*/collections/*/flow.json"), "{") }, "view"},
		{"a blob", func(s stored) { s.flip("blobs/*") }, "blobs ledger"},
		{"a snapshot", func(s stored) { s.flip("snapshots/0*/clients.jsonl") }, "snapshot"},
		{"a snapshot and the ledger", func(s stored) {
			s.flip("snapshots/0*/clients.jsonl")
			s.flip("ledger/*/*")
		}, "ledger snapshot"},
		{"the audit trail", func(s stored) { s.write(s.below("audit/*.jsonl"), "{}\nnonsense\n{}\n") }, "audit"},
		{"a file that cannot be read", func(s stored) {
			s.check(os.Mkdir(filepath.Join(s.dir, "blobs", strings.Repeat("ab", 32)), 0o750))
		}, "unreadable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := stored{t: t, dir: filepath.Join(t.TempDir(), "copy"), incarnation: whole.incarnation}
			s.check(os.CopyFS(s.dir, os.DirFS(whole.dir)))
			c.damage(s)
			code, kinds := scrubbed(t, s.dir)
			if want := map[bool]int{true: 0, false: exitPartly}[c.kinds == ""]; code != want || kinds != c.kinds {
				t.Errorf("exit code %d, %q; want %d, %q", code, kinds, want, c.kinds)
			}
		})
	}
	t.Run("what is written just now settles", func(t *testing.T) { settles(t, whole) })
}

// settles scrubs a store of which a segment looks wrong at first.
func settles(t *testing.T, whole stored) {
	name := whole.below(rowsFile)
	for _, c := range []struct {
		wrong   int64 // looks
		running bool  // the node that writes it
		damaged int
	}{
		{2, true, 0},
		{1000, true, 2}, // its checksum, and rows that are missing
		{1, false, 1},   // it is told at once, and the rows are looked for later
	} {
		synctest.Test(t, func(t *testing.T) {
			disk, err := filestore.OpenOS(whole.dir)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			s := &scrubber{meter: &meter{over: ctx.Done()}, findings: make(chan finding)}
			s.disk = &unsettledFS{FS: disk, name: name, wrong: c.wrong, running: c.running}
			var out bytes.Buffer
			cmd := command(t)
			cmd.SetOut(&out)
			p, err := (&globals{}).printer(cmd)
			if err != nil {
				t.Fatal(err)
			}
			damaged, err := s.print(ctx, cancel, p, &progress{})
			cancel()
			if err = errors.Join(err, disk.Close()); err != nil || damaged != c.damaged {
				t.Errorf("wrong %d times, running %t: %v, %d damaged, want %d: %s", c.wrong, c.running, err, damaged, c.damaged, out.String())
			}
		})
	}
}

// unsettledFS gives the first opened copies of a file other bytes than it has.
type unsettledFS struct {
	filestore.FS
	name    string
	wrong   int64
	running bool
	opened  atomic.Int64
}

func (f *unsettledFS) Open(path string) (filestore.File, error) {
	file, err := f.FS.Open(path)
	if err == nil && path == f.name && f.opened.Add(1) <= f.wrong {
		return zeros{file}, nil
	}
	return file, err
}

func (f *unsettledFS) ReadDir(path string) ([]fs.DirEntry, error) {
	if path == "nodes" && f.running {
		return nil, fs.ErrNotExist // nobody knows that it has ended
	}
	return f.FS.ReadDir(path)
}

// zeros is a file whose bytes are not there yet.
type zeros struct{ filestore.File }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	n, err := z.File.ReadAt(p, off)
	clear(p[:n])
	return n, err
}

// endless is a file that goes on for ever.
type endless struct{ filestore.File }

func (endless) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }

func TestAMeterHoldsReadersToItsRate(t *testing.T) {
	for _, piece := range []int{1, 1000, 8 << 20} {
		synctest.Test(t, func(t *testing.T) {
			m := &meter{perSecond: 2e6}
			file := meteredFile{endless{}, m}
			begin, total := time.Now(), 0
			for range 2 {
				if n, err := file.ReadAt(make([]byte, piece), 0); n != piece || err != nil {
					t.Fatal(n, err)
				}
				total += piece
			}
			if want := time.Duration(float64(total) / 2e6 * float64(time.Second)); time.Since(begin) != want || m.read.Load() != int64(total) {
				t.Errorf("%d bytes took %v, want %v; %d counted", total, time.Since(begin), want, m.read.Load())
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // work counts, but not all of it: half a second, then an hour
		file, begin := meteredFile{endless{}, &meter{perSecond: 1e6}}, time.Now()
		for _, work := range []time.Duration{0, time.Second / 2, time.Hour} {
			time.Sleep(work)
			if _, err := file.ReadAt(make([]byte, 2e6), 0); err != nil {
				t.Fatal(err)
			}
		}
		if took, want := time.Since(begin), 5*time.Second+time.Hour; took != want {
			t.Errorf("took %v, want %v", took, want)
		}
	})
	over := make(chan struct{})
	close(over)
	m := &meter{perSecond: 1, over: over}
	if n, err := (meteredFile{endless{}, m}).ReadAt(make([]byte, 1<<20), 0); n != 1<<20 || err != nil { // or it takes twelve days
		t.Error(n, err)
	}
}
