package ids_test

import (
	"crypto/rsa"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"raptorpack/ids"
)

// The vector of client-protocol section 16.1.
func TestClientOfKeyMatchesVector(t *testing.T) {
	modulus := make([]byte, 256)
	for i := range modulus {
		modulus[i] = byte(7*i + 129)
	}
	got := ids.ClientOfKey(&rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537})
	if want := "C.7a840418cf635f31"; got.String() != want {
		t.Errorf("client id %s, want %s", got, want)
	}
}

func TestParseAcceptsAndRefuses(t *testing.T) {
	parsers := map[string]func(string) error{
		"client":   func(s string) error { _, err := ids.ParseClient(s); return err },
		"flow":     func(s string) error { _, err := ids.ParseFlow(s); return err },
		"hunt":     func(s string) error { _, err := ids.ParseHunt(s); return err },
		"notebook": func(s string) error { _, err := ids.ParseNotebook(s); return err },
		"org":      func(s string) error { _, err := ids.ParseOrg(s); return err },
		"node":     func(s string) error { _, err := ids.ParseNode(s); return err },
	}
	cases := []struct {
		kind, text string
		ok         bool
	}{
		{"client", "C.7a840418cf635f31", true},
		{"client", "server", true},
		{"client", "C.7A840418CF635F31", false},
		{"client", "C.7a84", false},
		{"client", "C.7a840418cf635f3/", false},
		{"client", "", false},
		{"flow", "F.D4K8M2O9P1Q3R", true},
		{"flow", "F.D4K8M2O9P1Q3R.H", true},
		{"flow", "F.Monitoring", true},
		{"flow", "F...", false},
		{"flow", "F./etc", false},
		{"flow", "F.a..b", false},
		{"flow", "F." + strings.Repeat("A", 41), false},
		{"hunt", "H.D4K8M2O9P1Q3R", true},
		{"hunt", "F.D4K8M2O9P1Q3R", false},
		{"notebook", "N.D4K8M2O9P1Q3R", true},
		{"notebook", "N.H.D4K8M2O9P1Q3R", true},
		{"notebook", "N.F.D4K8M2O9P1Q3R-C.7a840418cf635f31", true},
		{"notebook", "N.F.D4K8M2O9P1Q3R.H-server", true},
		{"notebook", "N.H.D4K8M2O9P1Q3R-C.7a840418cf635f31", false},
		{"notebook", "N.F.D4K8M2O9P1Q3R-", false},
		{"notebook", "N.F./..-server", false},
		{"notebook", "N.../x", false},
		{"notebook", "N.", false},
		{"notebook", "D4K8M2O9P1Q3R", false},
		{"org", "", true},
		{"org", "root", true},
		{"org", "O1234", true},
		{"org", "../x", false},
		{"node", "web-1.example", true},
		{"node", "-web", false},
		{"node", "a/b", false},
		{"node", "Web", false},
	}
	for _, c := range cases {
		err := parsers[c.kind](c.text)
		if (err == nil) != c.ok {
			t.Errorf("%s %q: error %v, want ok %v", c.kind, c.text, err, c.ok)
		}
		if err != nil && !errors.Is(err, ids.ErrInvalid) {
			t.Errorf("%s %q: %v is not ErrInvalid", c.kind, c.text, err)
		}
	}
}

func TestNewIsParsedAndDiffers(t *testing.T) {
	now := time.Unix(1700000000, 0)
	a, b := ids.NewFlow(now), ids.NewFlow(now)
	if a == b {
		t.Errorf("two flows of one second are the same: %s", a)
	}
	if got, err := ids.ParseFlow(a.String()); err != nil || got != a {
		t.Errorf("parse %s: %v, %v", a, got, err)
	}
	if len(a.String()) != 15 {
		t.Errorf("flow id %s has %d characters, want 15", a, len(a.String()))
	}
}

func FuzzParse(f *testing.F) {
	f.Add("C.7a840418cf635f31")
	f.Add("F.x/../y")
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(string) (string, error){
			func(s string) (string, error) { v, err := ids.ParseClient(s); return v.String(), err },
			func(s string) (string, error) { v, err := ids.ParseFlow(s); return v.String(), err },
			func(s string) (string, error) { v, err := ids.ParseHunt(s); return v.String(), err },
			func(s string) (string, error) { v, err := ids.ParseNotebook(s); return v.String(), err },
			func(s string) (string, error) { v, err := ids.ParseNode(s); return v.String(), err },
		} {
			got, err := parse(text)
			if err == nil && (got != text || strings.ContainsAny(got, "/\x00\\") || got == "." || got == "..") {
				t.Errorf("accepted %q as %q", text, got)
			}
		}
	})
}

func TestClientsHaveNumbers(t *testing.T) {
	for _, text := range []string{"C.0000000000000000", "C.0123456789abcdef", "C.ffffffffffffffff"} {
		c, err := ids.ParseClient(text)
		if err != nil {
			t.Fatal(err)
		}
		n, ok := c.Number()
		if !ok || ids.ClientOfNumber(n) != c {
			t.Errorf("%s has the number %x (%t), which is %s", c, n, ok, ids.ClientOfNumber(n))
		}
	}
	for _, none := range []ids.Client{{}, ids.Server} {
		if _, ok := none.Number(); ok {
			t.Errorf("%q has a number", none)
		}
	}
}

func TestFlowsOfAHuntAreNumbered(t *testing.T) {
	h, err := ids.ParseHunt("H.D4K8M2O9P1Q3R")
	if err != nil {
		t.Fatal(err)
	}
	for attempt, want := range map[int]string{
		0: "F.D4K8M2O9P1Q3R.H", 1: "F.D4K8M2O9P1Q3R.1.H", ids.MaxAttempt: "F.D4K8M2O9P1Q3R.999.H",
		-1: "", ids.MaxAttempt + 1: "",
	} {
		f := h.Flow(attempt)
		if f.String() != want {
			t.Errorf("attempt %d is %q, want %q", attempt, f, want)
		}
		if _, err := ids.ParseFlow(want); want != "" && err != nil {
			t.Error(err)
		}
		if got, ok := f.Attempt(h); ok != (want != "") || ok && got != attempt {
			t.Errorf("%q is attempt %d, %v", f, got, ok)
		}
	}
	other := ids.NewHunt(time.Now())
	for _, text := range []string{
		"F.D4K8M2O9P1Q3R", "F.D4K8M2O9P1Q3R.Q", "F.D4K8M2O9P1Q3R.0.H", "F.D4K8M2O9P1Q3R.01.H", "F.D4K8M2O9P1Q3R.1000.H",
		"F.D4K8M2O9P1Q3R.x.H", "F.D4K8M2O9P1Q3R.1.1.H", "F.Monitoring", other.Flow(0).String(),
	} {
		f, err := ids.ParseFlow(text)
		if err != nil {
			t.Fatal(err)
		}
		if n, ok := f.Attempt(h); ok {
			t.Errorf("%s is taken for attempt %d", f, n)
		}
	}
	if n, ok := h.Flow(0).Attempt(ids.Hunt{}); ok || !(ids.Hunt{}).Flow(0).IsZero() {
		t.Errorf("no hunt has flows: %d", n)
	}
	dotted, err := ids.ParseHunt("H.a.1")
	if err != nil || dotted.Plain() || !h.Plain() || !other.Plain() {
		t.Errorf("plain: %v %v %v, %v", dotted.Plain(), h.Plain(), other.Plain(), err)
	}
}

func TestCopiesForAHuntAreTold(t *testing.T) {
	now := time.Now()
	h, other := ids.NewHunt(now), ids.NewHunt(now)
	f := h.NewCopy(now)
	stamp, ok := f.Copied(h)
	if !ok || h.Copy(stamp) != f || f == h.NewCopy(now) {
		t.Errorf("%s is %q, %v", f, stamp, ok)
	}
	if parsed, err := ids.ParseFlow(f.String()); err != nil || parsed != f {
		t.Errorf("%s: %v", f, err)
	}
	if _, ok := f.Attempt(h); ok {
		t.Errorf("%s is an attempt, too", f)
	}
	for _, not := range []ids.Flow{h.Flow(0), h.Flow(3), other.NewCopy(now), ids.NewFlow(now), {}} {
		if stamp, ok := not.Copied(h); ok {
			t.Errorf("%s is copy %q of %s", not, stamp, h)
		}
	}
	if _, ok := f.Copied(ids.Hunt{}); ok || !(ids.Hunt{}).NewCopy(now).IsZero() {
		t.Error("no hunt has copies")
	}
	long, err := ids.ParseHunt("H." + strings.Repeat("A", 30))
	if err != nil || !long.NewCopy(now).IsZero() || !h.Copy("a.b").IsZero() || !h.Copy("").IsZero() {
		t.Error("ids that are none", err)
	}
}
