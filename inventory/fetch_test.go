package inventory_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"raptorpack/artifacts"
	"raptorpack/ids"
	"raptorpack/inventory"
)

// upstream is where tools come from.
func upstream(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc("GET /dir/tool.exe", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "tool") })
	mux.HandleFunc("GET /moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/dir/tool.exe", http.StatusFound) })
	mux.HandleFunc("GET /loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("GET /large", func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush() // no length is told
		for range 20 {
			fmt.Fprint(w, strings.Repeat("x", 100_000))
		}
	})
	mux.HandleFunc("GET /torn", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
	})
	mux.HandleFunc("GET /repos/o/p/releases/latest", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"assets":[{"name":"x.txt","browser_download_url":"%[1]s/none"},{"name":"Tool-AMD64.exe","browser_download_url":"%[1]s/dir/tool.exe"}]}`, server.URL)
	})
	return server
}

// fetching runs a fetcher until the test ends, or stop is called.
func (w *world) fetching(from *httptest.Server) (stop func()) {
	w.t.Helper()
	f := inventory.NewFetcher(inventory.FetcherOptions{
		Room: w.room, Files: w.files, Propose: w.ledger.Propose, GithubAPI: from.URL, Within: 20 * time.Second,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		w.check(<-done)
	})
	w.t.Cleanup(stop)
	return stop
}

// settled waits until a tool is not fetched any more.
func (w *world) settled(name string) *inventory.Tool {
	w.t.Helper()
	for {
		changed := w.room.Changed()
		if tool := w.lookup(name); !tool.Fetching {
			return tool
		}
		select {
		case <-changed:
		case <-w.t.Context().Done():
			w.t.Fatalf("tool %s is being fetched for ever", name)
		}
	}
}

func (w *world) want(name string) *inventory.Tool {
	w.t.Helper()
	w.do(w.room.PlanWant(ids.RootOrg, name, "", "ann"))
	return w.settled(name)
}

func TestFetchBringsTheTool(t *testing.T) {
	from := upstream(t)
	hash := fmt.Sprintf("%x", sha256.Sum256([]byte("tool")))
	w := newWorld(
		t, declare("A", artifacts.Tool{Name: "plain", URL: from.URL + "/dir/tool.exe", ServeLocally: true, ExpectedHash: strings.ToUpper(hash)}),
		declare("A", artifacts.Tool{Name: "moved", URL: from.URL + "/moved"}),
		declare("A", artifacts.Tool{Name: "hub", GithubProject: "o/p", GithubAssetRegex: "amd64.exe$"}),
	)
	w.fetching(from)
	for _, name := range []string{"plain", "moved", "hub"} {
		tool := w.want(name)
		if tool.File == nil || tool.File.Hash != hash || tool.Failure != nil {
			t.Fatalf("%s: %+v, failure %+v", name, tool, tool.Failure)
		}
		if w.read(tool.File.Path) != "tool" {
			t.Errorf("%s: %q", name, w.read(tool.File.Path))
		}
	}
	if w.listed() != 1 {
		t.Errorf("%d files of the same bytes", w.listed())
	}
	if got := w.variables(w.lookup("moved")); got["Tool_moved_URL"] != from.URL+"/moved" || got["Tool_moved_HASH"] != hash {
		t.Errorf("a tool that is not served here: %v", got)
	}
	if got := w.variables(w.lookup("hub")); !strings.Contains(got["Tool_hub_URL"], "/public/") || got["Tool_hub_FILENAME"] != "tool.exe" {
		t.Errorf("a tool of a release: %v", got)
	}
}

func TestFetchThatFailsSaysWhyAndLeavesNothing(t *testing.T) {
	from := upstream(t)
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	for _, c := range []struct {
		tool artifacts.Tool
		want string
	}{
		{artifacts.Tool{URL: from.URL + "/none"}, "404"},
		{artifacts.Tool{URL: from.URL + "/loop"}, "redirects"},
		{artifacts.Tool{URL: from.URL + "/large"}, "too large"},
		{artifacts.Tool{URL: from.URL + "/torn"}, "unexpected EOF"},
		{artifacts.Tool{URL: dead.URL + "/x"}, "upload the tool instead"},
		{artifacts.Tool{URL: "http://169.254.169.254/latest/meta-data/"}, "link-local"},
		{artifacts.Tool{URL: from.URL + "/moved", ExpectedHash: strings.Repeat("a", 64)}, "expected aaa"},
		{artifacts.Tool{GithubProject: "o/p", GithubAssetRegex: "arm"}, "none of its 2 assets"},
		{artifacts.Tool{GithubProject: "o/unknown"}, "newest release of o/unknown"},
	} {
		c.tool.Name = "x"
		w := newWorld(t, declare("A", c.tool))
		w.fetching(from)
		w.check(os.MkdirAll(w.store.Root()+"/public", 0o750))
		tool := w.want("x")
		if tool.File != nil || tool.Failure == nil || !strings.Contains(tool.Failure.Text, c.want) {
			t.Errorf("%+v: failure %+v, want %q", c.tool, tool.Failure, c.want)
			continue
		}
		if c.tool.ExpectedHash != "" && len(tool.Failure.Hash) != 64 {
			t.Errorf("the hash that came is not remembered: %+v", tool.Failure)
		}
		entries, err := os.ReadDir(w.store.Root() + "/public")
		if err != nil || len(entries) != 0 {
			t.Errorf("%+v: left behind %v, %v", c.tool, entries, err)
		}
	}
}

// A hash that came and was not expected is accepted by expecting it.
func TestWrongHashIsAcceptedByAnAdministrator(t *testing.T) {
	from := upstream(t)
	w := newWorld(t, declare("A", artifacts.Tool{Name: "x", URL: from.URL + "/moved", ExpectedHash: strings.Repeat("a", 64), ServeLocally: true}))
	w.fetching(from)
	came := w.want("x").Failure.Hash
	w.do(w.room.PlanSet(ids.RootOrg, artifacts.Tool{Name: "x", URL: from.URL + "/moved", ExpectedHash: came, ServeLocally: true}, "ann"))
	if tool := w.want("x"); tool.File == nil || tool.File.Hash != came {
		t.Errorf("%+v, failure %+v", tool, tool.Failure)
	}
}

// What one master was asked for the next one fetches.
func TestFetchGoesOnAfterAChangeOfMaster(t *testing.T) {
	from := upstream(t)
	w := newWorld(t, declare("A", artifacts.Tool{Name: "x", URL: from.URL + "/moved"}))
	w.do(w.room.PlanWant(ids.RootOrg, "x", "", "ann"))
	w.fetching(from)
	if tool := w.settled("x"); tool.File == nil {
		t.Errorf("%+v, failure %+v", tool, tool.Failure)
	}
}

func TestSweepRemovesWhatNobodyNames(t *testing.T) {
	w := newWorld(t)
	w.upload("x", "one")
	w.do(w.room.PlanDelete(ids.RootOrg, "x", "", "ann"))
	if w.listed() != 1 {
		t.Fatalf("%d files", w.listed())
	}
	w.fetching(upstream(t)) // which looks at once
	for len(w.room.Unused(time.Now())) > 0 {
		select {
		case <-w.room.Changed():
		case <-time.After(10 * time.Millisecond): // the change may have come before Changed was asked
		}
	}
	if w.listed() != 0 {
		t.Errorf("%d files are still there", w.listed())
	}
}
