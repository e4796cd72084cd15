package integration_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/integration"
	"raptorpack/proto/buspb"
)

// long runs the stories at the size that the project promises; the short forms
// are the same stories with fewer rows and kills.
var long = flag.Bool("long", false, "run the stories at full size")

// stores is where kill stories put their filestore, such as a real NFS mount.
var stores = flag.String("stores", "", "folder for filestores; empty: a temporary one")

// options puts each story's store into a folder of its own below -stores.
func options(t *testing.T) integration.Options {
	if *stores == "" {
		return integration.Options{}
	}
	return integration.Options{Store: filepath.Join(*stores, t.Name())}
}

const numbers = `name: Custom.Integration.Numbers
parameters:
- name: Rows
  type: int
sources:
- query: SELECT _value AS N FROM range(end=Rows)
`

const bigFile = `name: Custom.Integration.BigFile
parameters:
- name: File
sources:
- query: SELECT upload(file=File) AS Upload FROM scope()
`

// story is one collection of numbered rows and a large file, with somebody being
// killed all the while.
type story struct {
	t     *testing.T
	pack  *integration.Pack
	agent *integration.Agent
	rows  int64
	kills int
	hash  string
	flow  string
}

func begin(t *testing.T, pack *integration.Pack) *story {
	t.Helper()
	s := &story{t: t, pack: pack, rows: 60_000, kills: 6}
	size := int64(30 << 20)
	if *long {
		s.rows, s.kills, size = 1_000_000, 50, 500<<20
	}
	pack.StartServer()
	s.agent = pack.AddAgent()
	pack.SetArtifact(numbers)
	pack.SetArtifact(bigFile)
	file := filepath.Join(t.TempDir(), "big.bin")
	s.hash = randomFile(t, file, size)
	s.flow = pack.CollectAll(s.agent, map[string]map[string]string{
		"Custom.Integration.Numbers": {"Rows": strconv.FormatInt(s.rows, 10)},
		"Custom.Integration.BigFile": {"File": file},
	})
	return s
}

func randomFile(t *testing.T, path string, size int64) string {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(file, hash), rand.Reader, size); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// each runs kill as often as the story wants, each time after something more was
// acknowledged, and stops early only if the flow has ended, which it reports.
func (s *story) each(kill func(n int)) {
	s.t.Helper()
	done := 0
	for ; done < s.kills; done++ {
		if !s.pack.Progress(s.agent, s.flow) {
			break
		}
		kill(done)
	}
	s.t.Logf("%d kills while the flow was at work", done)
	if done < s.kills/2 {
		s.t.Errorf("the flow ended after %d kills: the story shows too little", done)
	}
}

// end waits for the flow and checks everything.
func (s *story) end() integration.Check {
	s.t.Helper()
	flow := s.pack.Await(s.agent, s.flow)
	if flow.State != "completed" {
		s.t.Errorf("flow ended %s: %s", flow.State, flow.Error)
	}
	uploads := s.pack.Uploads(s.agent, s.flow)
	if len(uploads) != 1 {
		s.t.Fatalf("uploads: %+v", uploads)
	}
	check := integration.Check{
		Store: s.pack.Store(), Client: s.agent.ID, Flow: s.flow, Result: "Custom.Integration.Numbers", Rows: s.rows,
		Upload: uploads[0].StoredPath, UploadSHA256: s.hash, History: s.agent.History(),
	}
	if uploads[0].SHA256 != s.hash {
		s.t.Errorf("the server hashed the upload to %s, the original is %s", uploads[0].SHA256, s.hash)
	}
	if err := check.Run(s.t.Context()); err != nil {
		s.t.Error(err)
	}
	return check
}

func TestKilledServerLosesAndDoublesNothing(t *testing.T) {
	s := begin(t, integration.Launch(t, options(t)))
	s.each(func(int) {
		s.pack.KillServer()
		s.pack.StartServer()
	})
	s.end()
}

func TestKilledAgentLosesAndDoublesNothing(t *testing.T) {
	s := begin(t, integration.Launch(t, options(t)))
	s.each(func(int) {
		s.agent.Kill()
		s.agent.Start()
	})
	s.end()
}

// The checker must notice what it is there for.
func TestCheckerFailsOnADamagedStore(t *testing.T) {
	s := begin(t, integration.Launch(t, options(t)))
	good := s.end()
	s.pack.StopServer()
	damage := map[string]func(t *testing.T, check *integration.Check){
		"a row removed": func(t *testing.T, check *integration.Check) { rewriteRows(t, check, dropLine) },
		"a row doubled": func(t *testing.T, check *integration.Check) { rewriteRows(t, check, doubleLine) },
		"a byte changed in the upload": func(t *testing.T, check *integration.Check) {
			path := filepath.Join(check.Store, check.Upload)
			if err := os.Chmod(path, 0o600); err != nil {
				t.Fatal(err)
			}
			file, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if _, err := file.WriteAt([]byte("x"), 12345); err != nil {
				t.Fatal(err)
			}
		},
		"an acknowledgement of rows that are not there": func(t *testing.T, check *integration.Check) {
			text, err := os.ReadFile(check.History)
			if err != nil {
				t.Fatal(err)
			}
			more := fmt.Appendf(text, `{"flow":%q,"kind":"rows","name":%q,"first":%d,"count":5,"crc":1}`+"\n", check.Flow, check.Result, check.Rows)
			check.History = filepath.Join(t.TempDir(), "history")
			if err := os.WriteFile(check.History, more, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, hurt := range damage {
		t.Run(name, func(t *testing.T) {
			check := good
			check.Store = filepath.Join(t.TempDir(), "store")
			if err := os.CopyFS(check.Store, os.DirFS(good.Store)); err != nil {
				t.Fatal(err)
			}
			if err := check.Run(t.Context()); err != nil {
				t.Fatalf("the copy is not good: %v", err)
			}
			hurt(t, &check)
			if err := check.Run(t.Context()); err == nil {
				t.Error("the checker did not notice")
			}
		})
	}
}

func dropLine(lines []byte) []byte {
	i := bytes.IndexByte(lines, '\n')
	return lines[i+1:]
}

func doubleLine(lines []byte) []byte {
	i := bytes.IndexByte(lines, '\n')
	return append(bytes.Clone(lines[:i+1]), lines...)
}

// rewriteRows replaces the segments of the check's rows by one that holds what
// edit makes of all lines, with an index that fits them: damage that only a look
// at the rows shows.
func rewriteRows(t *testing.T, check *integration.Check, edit func([]byte) []byte) {
	t.Helper()
	client, err := ids.ParseClient(check.Client)
	if err != nil {
		t.Fatal(err)
	}
	flow, err := ids.ParseFlow(check.Flow)
	if err != nil {
		t.Fatal(err)
	}
	store, err := filestore.Open(check.Store, filestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(t.Context())
	set := filestore.FlowResults(ids.RootOrg, client, flow, check.Result)
	var lines bytes.Buffer
	if _, err := filestore.NewReader(filestore.ReaderOptions{Store: store}).Export(t.Context(), set, filestore.RowsFilter{}, &lines); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(check.Store, string(set))); err != nil {
		t.Fatal(err)
	}
	committer, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: store, Incarnation: "forger-1", Valid: func() bool { return true }, Outbox: noOutbox{},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- committer.Run(ctx) }()
	forged := edit(lines.Bytes())
	err = committer.Submit(ctx, &filestore.Commit{Appends: []filestore.Append{{
		Set: set, Extent: filestore.Extent{Client: client, Flow: flow, Name: check.Result, Rows: int64(bytes.Count(forged, []byte("\n")))}, Lines: forged,
	}}})
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
}

type noOutbox struct{}

func (noOutbox) AppendSync(context.Context, []*buspb.Mutation) error { return nil }

// lost compares what was acknowledged so far with the store as it is, without a
// server.
func (s *story) lost() error {
	return integration.Check{
		Store: s.pack.Store(), Client: s.agent.ID, Flow: s.flow, Result: "Custom.Integration.Numbers", Rows: -1, History: s.agent.History(),
	}.Run(s.t.Context())
}
