package endpoint_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

// The library that writes databases for tests lets a goroutine of its own run for a
// second after it has closed them.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/syndtr/goleveldb/leveldb.(*DB).mpoolDrain"))
}

// session runs queries the way the agent does.
type session struct {
	t     testing.TB
	scope *vql.Scope

	mu   sync.Mutex
	logs []string
}

func newSession(t testing.TB, env map[string]any, services ...any) *session {
	t.Helper()
	engine, err := vql.NewEngine(endpoint.Functions(), endpoint.Plugins())
	if err != nil {
		t.Fatal(err)
	}
	s := &session{t: t}
	vars := vql.NewDict()
	for k, v := range env {
		vars.Set(k, v)
	}
	s.scope = engine.NewScope(vql.SessionOptions{
		Env: vars, Services: services, Accessors: endpoint.Accessors(),
		Limits: vql.Limits{TempDir: t.TempDir()},
		Log: func(level, message string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.logs = append(s.logs, level+": "+message)
		},
	})
	t.Cleanup(s.scope.Close)
	return s
}

func (s *session) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.logs, "\n")
}

// each runs a query and hands on its rows.
func (s *session) each(ctx context.Context, query string, emit func(*vql.Dict) error) error {
	s.t.Helper()
	program, err := vql.Parse(query)
	if err != nil {
		s.t.Fatalf("parse %s: %v", query, err)
	}
	return s.scope.RunProgram(ctx, program, emit)
}

// rows runs a query and returns its rows as JSON lines.
func (s *session) rows(query string) []string {
	s.t.Helper()
	var out []string
	err := s.each(s.t.Context(), query, func(row *vql.Dict) error {
		out = append(out, string(vql.AppendJSON(nil, row)))
		return nil
	})
	if err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return out
}

func (s *session) want(query string, want ...string) {
	s.t.Helper()
	got := s.rows(query)
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		s.t.Errorf("%s\ngot:\n%s\nwant:\n%s\nlog:\n%s", query, strings.Join(got, "\n"), strings.Join(want, "\n"), s.log())
	}
}

func (s *session) wantLog(part string) {
	s.t.Helper()
	if !strings.Contains(s.log(), part) {
		s.t.Errorf("log does not hold %q:\n%s", part, s.log())
	}
}

// tree makes files below a new folder; names that end in / are folders, content
// that starts with -> is a link.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = os.MkdirAll(filepath.Dir(path), 0o755)
			if target, ok := strings.CutPrefix(content, "->"); ok {
				err = errors.Join(err, os.Symlink(target, path))
			} else {
				err = errors.Join(err, os.WriteFile(path, []byte(content), 0o644))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// uploads is an uploader that keeps what it is given.
type uploads struct {
	mu       sync.Mutex
	requests []vql.UploadRequest
	data     []string
}

func (u *uploads) Upload(_ context.Context, _ *vql.Scope, r vql.UploadRequest) (*vql.UploadResult, error) {
	data, err := io.ReadAll(r.Reader)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests = append(u.requests, r)
	u.data = append(u.data, string(data))
	return &vql.UploadResult{Path: r.Path.String(), Size: r.Size, StoredSize: int64(len(data))}, nil
}
