package server_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"raptorpack/users"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
	"raptorpack/vql/server"
)

// pureByHand is the second pair of eyes on Guard's list: primitives of the
// endpoint that work on their arguments alone.
var pureByHand = strings.Fields(`basename crypto_rc4 dirname entropy grok gunzip lru parse_json parse_json_array
	parse_pkcs7 parse_string_with_regex parse_x509 path_join path_split pathspec regex_replace regex_transform relpath rot13`)

func TestEveryEndpointPrimitiveNeedsAPermissionUnlessPure(t *testing.T) {
	functions, plugins := server.Guard(endpoint.Functions(), endpoint.Plugins())
	var specs []vql.Spec
	for _, f := range functions {
		specs = append(specs, f.Spec)
	}
	for _, p := range plugins {
		specs = append(specs, p.Spec)
	}
	if len(specs) != len(endpoint.Functions())+len(endpoint.Plugins()) {
		t.Fatalf("%d primitives are left", len(specs))
	}
	seen := map[string]bool{}
	for _, s := range specs {
		seen[s.Name] = true
		isPure := slices.Contains(pureByHand, s.Name)
		if isPure != (s.Permission == "") {
			t.Errorf("%s: permission %q, pure %v", s.Name, s.Permission, isPure)
		}
		if _, err := users.ParsePermission(s.Permission); err != nil && !isPure {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
	for _, name := range pureByHand {
		if !seen[name] {
			t.Errorf("%s is on the list of pure primitives and does not exist", name)
		}
	}
}

func TestGuardClosesWhatDeclaresNothing(t *testing.T) {
	fresh := vql.NewFunction(vql.Spec{Name: "brand_new"}, func(context.Context, *vql.Scope, *struct{}) (vql.Value, error) { return 1, nil })
	guarded, _ := server.Guard([]*vql.Function{fresh}, nil)
	if guarded[0].Spec.Permission != "MACHINE_STATE" {
		t.Errorf("permission %q", guarded[0].Spec.Permission)
	}
	if fresh.Spec.Permission != "" {
		t.Error("the endpoint's own declaration was changed, which agents share")
	}
}

// Nothing of the server's disk reaches somebody without FILESYSTEM_READ, by
// whichever primitive and accessor.
func TestNobodyReadsFilesOfTheServerWithoutPermission(t *testing.T) {
	w := newWorld(t)
	secret := filepath.Join(t.TempDir(), "secret.csv")
	must(t, os.WriteFile(secret, []byte("Word\nhush\n"), 0o600))
	queries := []string{
		`SELECT read_file(filename='SECRET') AS X FROM scope()`,
		`SELECT * FROM read_file(filenames='SECRET')`,
		`SELECT * FROM glob(globs='SECRET')`,
		`SELECT * FROM glob(globs='/*', accessor='data')`,
		`SELECT * FROM parse_csv(filename='SECRET')`,
		`SELECT * FROM parse_csv(filename='SECRET', accessor='raw_file')`,
		`SELECT * FROM parse_lines(filename='SECRET')`,
		`SELECT * FROM stat(filename='SECRET')`,
		`SELECT hash(path='SECRET') AS X FROM scope()`,
		`SELECT parse_yaml(filename='SECRET') AS X FROM scope()`,
		`SELECT read_file(filename=pathspec(Path='0', DelegateAccessor='file', DelegatePath='SECRET'), accessor='offset') AS X FROM scope()`,
		`SELECT upload(file='SECRET') AS X FROM scope()`,
		`SELECT copy(filename='SECRET', dest='SECRET.copy') AS X FROM scope()`,
		`SELECT tempfile(data='x') AS X FROM scope()`,
		`SELECT * FROM execve(argv=['cat', 'SECRET'])`,
		`SELECT * FROM http_client(url='http://127.0.0.1:1/', files=[dict(file='x', key='k', path='SECRET')], method='POST')`,
		`SELECT * FROM pslist()`,
		`SELECT process_tracker_get(id='1') AS X FROM scope()`,
		`SELECT process_tracker_all() AS X FROM scope()`,
		`SELECT * FROM process_tracker_pslist()`,
		`SELECT environ(var='PATH') AS X FROM scope()`,
		`SELECT * FROM info()`,
	}
	for _, role := range []string{"reader", "analyst", "investigator", "api", "artifact_writer", "basic"} {
		s := w.as("eve", role)
		for _, q := range queries {
			got := s.rows("%s", strings.ReplaceAll(q, "SECRET", secret))
			text := strings.Join(got, "\n")
			if len(got) > 0 && text != `{"X":null}` {
				t.Errorf("%s: %s gave %s", role, q, text)
			}
		}
		s.wantLog("permission denied: FILESYSTEM_READ is needed")
		s.wantLog("permission denied: MACHINE_STATE is needed")
	}
	if _, err := os.Stat(secret + ".copy"); err == nil {
		t.Error("the file was copied")
	}
	admin := w.admin()
	if got := admin.rows(`SELECT * FROM parse_csv(filename='%s')`, secret); fmt.Sprint(got) != `[{"Word":"hush"}]` {
		t.Errorf("administrator reads %v, log:\n%s", got, admin.log())
	}
}

// only is a permission of its own, to see what the accessors hold back by
// themselves.
type only string

func (o only) Allowed(permission string) bool { return string(o) == permission }

func TestAccessorsHoldBackByThemselves(t *testing.T) {
	w := newWorld(t)
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("hush"), 0o600))
	network := w.session(only("NETWORK"), nil, w.host("eve"), &endpoint.HTTPSettings{RetryWaits: []time.Duration{0}})
	network.rows(`SELECT * FROM http_client(url='http://127.0.0.1:1/', files=[dict(file='x', key='k', path='%s')], method='POST')`, secret)
	network.wantLog("FILESYSTEM_READ is needed")
	reader := w.session(only("FILESYSTEM_READ"), nil, w.host("eve"))
	for _, q := range []string{
		fmt.Sprintf(`SELECT read_file(filename='/%d', accessor='process', length=10) AS X FROM scope()`, os.Getpid()),
		`SELECT * FROM glob(globs='/*', accessor='fs')`,
	} {
		if got := strings.Join(reader.rows("%s", q), "\n"); got != "" && got != `{"X":""}` {
			t.Errorf("%s gave %s", q, got)
		}
	}
	reader.wantLog("MACHINE_STATE is needed")
	reader.wantLog("SERVER_ADMIN is needed")
	reader.want(`SELECT read_file(filename='text', accessor='data') AS X FROM scope()`, `{"X":"text"}`)
}

// Whatever a later build adds to the accessors is closed until it is sorted.
func TestUnknownAccessorsNeedFilesystemRead(t *testing.T) {
	all := endpoint.Accessors()
	all["brand_new"] = all["data"]
	engine, err := vql.NewEngine(server.Guard(endpoint.Functions(), endpoint.Plugins()))
	must(t, err)
	scope := engine.NewScope(vql.SessionOptions{Permissions: only("NETWORK"), Accessors: server.Accessors(all)})
	defer scope.Close()
	accessor, err := scope.Accessor("brand_new")
	must(t, err)
	path, err := accessor.ParsePath("text")
	must(t, err)
	if _, err := accessor.Open(t.Context(), scope, path); err == nil || !strings.Contains(err.Error(), "FILESYSTEM_READ") {
		t.Errorf("opened: %v", err)
	}
}

// A path object may hold what no text parses to.
func TestFsDoesNotClimb(t *testing.T) {
	w := newWorld(t)
	must(t, w.store.MkdirAll(t.Context(), "ledger"))
	must(t, w.store.ReplaceFile(t.Context(), "ledger/x", []byte("secret")))
	s := w.admin()
	accessor, err := s.scope.Accessor("fs")
	must(t, err)
	for _, parts := range [][]string{{"clients", "..", "ledger", "x"}, {"clients/../ledger", "x"}, {"..", "ledger", "x"}, {"clients", "../ledger/x"}} {
		p := vql.NewPath(vql.PathLinux, parts...)
		if _, err := accessor.Open(t.Context(), s.scope, p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %q: %v", parts, err)
		}
		if _, err := accessor.Lstat(t.Context(), s.scope, p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("look at %q: %v", parts, err)
		}
	}
}
