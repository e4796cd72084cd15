package users_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"raptorpack/proto/buspb"
	"raptorpack/users"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

type house struct {
	*users.Room
	t   *testing.T
	now time.Time
}

func newHouse(t *testing.T) *house { return &house{users.New(), t, noon} }

func (h *house) must(m *buspb.Mutation, err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatalf("plan: %v", err)
	}
	h.now = h.now.Add(time.Second)
	if err := h.Apply(&buspb.Entry{Time: h.now.UnixMicro(), Mutation: m}); err != nil {
		h.t.Fatalf("apply: %v", err)
	}
}

func (h *house) add(name, password string, roles ...string) {
	h.t.Helper()
	var hash []byte
	if password != "" {
		var err error
		if hash, err = h.HashPassword(h.t.Context(), password); err != nil {
			h.t.Fatal(err)
		}
	}
	h.must(h.PlanSet(name, roles, hash, false))
}

func (h *house) bytes() string {
	var out bytes.Buffer
	if _, err := h.View().WriteTo(&out); err != nil {
		h.t.Fatal(err)
	}
	return out.String()
}

func TestSignIn(t *testing.T) {
	h := newHouse(t)
	h.add("ada", "correct horse", "administrator")
	h.add("robot", "", "api")
	if a, err := h.SignIn(t.Context(), "ada", "correct horse"); err != nil || a.Name != "ada" {
		t.Fatalf("sign in: %v, %v", a, err)
	}
	for _, c := range [][2]string{{"ada", "wrong horse"}, {"nobody", "correct horse"}, {"robot", ""}, {"ada", ""}} {
		if _, err := h.SignIn(t.Context(), c[0], c[1]); !errors.Is(err, users.ErrDenied) {
			t.Errorf("%v: %v", c, err)
		}
	}
	h.must(h.PlanSet("ada", []string{"reader"}, nil, true))
	if _, err := h.SignIn(t.Context(), "ada", "correct horse"); !errors.Is(err, users.ErrDenied) {
		t.Errorf("locked account: %v", err)
	}
	h.must(h.PlanSet("ada", []string{"reader"}, nil, false))
	if _, err := h.SignIn(t.Context(), "ada", "correct horse"); err != nil {
		t.Errorf("the password was lost by a change of role: %v", err)
	}
}

func TestSignInHonoursItsContext(t *testing.T) {
	h := newHouse(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 { // either branch of the wait may be taken while a place is free
		if _, err := h.SignIn(ctx, "x", "y"); errors.Is(err, context.Canceled) {
			return
		}
	}
	t.Error("a cancelled sign-in was never refused")
}

func TestCheckFollowsRoles(t *testing.T) {
	h := newHouse(t)
	h.add("ada", "", "administrator")
	h.add("rex", "", "reader")
	h.add("inv", "", "investigator", "artifact_writer")
	cases := []struct {
		user       string
		permission users.Permission
		want       error
	}{
		{"ada", users.CollectClient, nil},
		{"ada", users.OrgAdmin, users.ErrForbidden},
		{"rex", users.ReadResults, nil},
		{"rex", users.CollectClient, users.ErrForbidden},
		{"inv", users.CollectClient, nil},
		{"inv", users.ArtifactWriter, nil},
		{"inv", users.ServerAdmin, users.ErrForbidden},
		{"nobody", users.ReadResults, users.ErrDenied},
	}
	for _, c := range cases {
		if err := h.Check(c.user, c.permission); !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%s %s: %v, want %v", c.user, c.permission, err, c.want)
		}
	}
}

func TestSessionsEndEverywhere(t *testing.T) {
	h := newHouse(t)
	h.add("ada", "", "administrator")
	open := func() string {
		m, secret, err := h.PlanSession("ada", "browser", noon.Add(time.Hour))
		h.must(m, err)
		return secret
	}
	first, second := open(), open()
	if strings.Contains(h.bytes(), first) {
		t.Error("the secret itself is stored")
	}
	if a, err := h.SessionUser(first, noon); err != nil || a.Name != "ada" {
		t.Fatalf("session: %v, %v", a, err)
	}
	if _, err := h.SessionUser(first, noon.Add(time.Hour)); !errors.Is(err, users.ErrDenied) {
		t.Errorf("expired session: %v", err)
	}
	h.must(h.PlanSignOut(first))
	if _, err := h.SessionUser(first, noon); !errors.Is(err, users.ErrDenied) {
		t.Errorf("signed-out session: %v", err)
	}
	h.must(h.PlanDelete("ada"))
	if _, err := h.SessionUser(second, noon); !errors.Is(err, users.ErrDenied) {
		t.Errorf("session of a deleted user: %v", err)
	}
}

func TestPlansRefuse(t *testing.T) {
	h := newHouse(t)
	for _, name := range []string{"", "a b", "../x", "-x", strings.Repeat("a", 200), "a\n"} {
		if _, err := h.PlanSet(name, nil, nil, false); !errors.Is(err, users.ErrRefused) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := h.PlanSet("ada", []string{"emperor"}, nil, false); !errors.Is(err, users.ErrRefused) {
		t.Errorf("unknown role: %v", err)
	}
	if _, err := h.HashPassword(t.Context(), "short"); !errors.Is(err, users.ErrRefused) {
		t.Errorf("short password: %v", err)
	}
	if _, err := h.PlanDelete("nobody"); !errors.Is(err, users.ErrUnknownUser) {
		t.Errorf("delete a stranger: %v", err)
	}
}

func TestSnapshotRestoresTheSameBytes(t *testing.T) {
	h := newHouse(t)
	h.add("zoe", "some password", "reader", "api")
	h.add("ada", "", "administrator")
	m, _, err := h.PlanSession("ada", "key", noon.Add(time.Hour))
	h.must(m, err)
	before := h.bytes()
	other := newHouse(t)
	if err := other.Restore(strings.NewReader(before)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, other.bytes()); diff != "" {
		t.Error(diff)
	}
	if _, err := other.SignIn(t.Context(), "zoe", "some password"); err != nil {
		t.Errorf("sign in after restore: %v", err)
	}
}

func TestEveryRoleHasAMeaning(t *testing.T) {
	for _, role := range users.Roles() {
		if len(users.PermissionsOf([]string{role})) == 0 {
			t.Errorf("role %s may do nothing", role)
		}
	}
	if slices.Contains(users.PermissionsOf([]string{"administrator"}), users.OrgAdmin) {
		t.Error("an administrator may reach other orgs")
	}
}

func FuzzApply(f *testing.F) {
	f.Add([]byte("\x0a\x05\x0a\x03ada"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := users.New()
		if err := r.Apply(&buspb.Entry{Mutation: &buspb.Mutation{Kind: users.Kind, Body: body}}); err == nil {
			if len(r.Accounts()) > 1 {
				t.Error("one change made several accounts")
			}
		}
	})
}

func TestANewPasswordEndsSignInsAndLeavesKeys(t *testing.T) {
	h := newHouse(t)
	h.add("ada", "first password", "reader")
	m, browser, err := h.PlanSession("ada", users.SignInNote, noon.Add(time.Hour))
	h.must(m, err)
	m, key, err := h.PlanSession("ada", "robot", noon.Add(time.Hour))
	h.must(m, err)
	h.must(h.PlanSet("ada", []string{"analyst"}, nil, false)) // roles alone end nothing
	if _, err := h.SessionUser(browser, noon); err != nil {
		t.Errorf("a change of roles ended the session: %v", err)
	}
	h.add("ada", "second password", "analyst")
	if _, err := h.SessionUser(browser, noon); !errors.Is(err, users.ErrDenied) {
		t.Errorf("after a new password the old session says %v", err)
	}
	if _, err := h.SessionUser(key, noon); err != nil {
		t.Errorf("the API key is gone: %v", err)
	}
}

func TestAPasswordUndoesNoOtherChange(t *testing.T) {
	h := newHouse(t)
	h.add("ada", "first one", "administrator")
	hash, err := h.HashPassword(t.Context(), "second one")
	if err != nil {
		t.Fatal(err)
	}
	password, err := h.PlanPassword("ada", hash)
	if err != nil {
		t.Fatal(err)
	}
	granted, err := h.PlanRoles("ada", []string{"analyst"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.must(h.PlanSet("ada", []string{"reader"}, nil, true)) // in the meantime
	h.must(password, nil)
	account, err := h.Account("ada")
	if err != nil || !account.Locked || !slices.Equal(account.Roles, []string{"reader"}) {
		t.Errorf("after the password: %+v, %v", account, err)
	}
	h.must(granted, nil)
	if account, err = h.Account("ada"); err != nil || !account.Locked || !slices.Equal(account.Roles, []string{"analyst"}) {
		t.Errorf("after the grant: %+v, %v", account, err)
	}
	h.must(h.PlanSet("ada", []string{"reader"}, nil, false))
	if _, err := h.SignIn(t.Context(), "ada", "second one"); err != nil {
		t.Error(err)
	}
	h.must(h.PlanDelete("ada"))
	for _, m := range []*buspb.Mutation{password, granted} {
		if err := h.Apply(&buspb.Entry{Time: h.now.UnixMicro(), Mutation: m}); !errors.Is(err, users.ErrUnknownUser) {
			t.Errorf("a deleted account came back: %v", err)
		}
	}
	if _, err := h.PlanPassword("nobody", hash); !errors.Is(err, users.ErrUnknownUser) {
		t.Error(err)
	}
}
