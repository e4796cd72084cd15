package pool

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"reflect"
	"testing"
	"time"
)

func newFleet(seed uint64, systems map[string]int) *fleet {
	return &fleet{seed: seed, mix: mixOf(systems), epoch: time.Unix(1_790_000_000, 0).UTC()}
}

// face is what a query sees of a host.
func face(h *Host) any {
	return []any{infoFacts(h), h.processes(), h.accounts(), h.logins(), h.address(), h.mac()}
}

func infoFacts(h *Host) any {
	family, name, version, kernel := h.platform()
	return []any{h.name(), h.fqdn(), h.system, family, name, version, kernel, h.booted()}
}

func TestSameNumberAndSeedAreTheSameHost(t *testing.T) {
	for n := range 40 {
		if one, again := face(newHost(n, newFleet(5, nil))), face(newHost(n, newFleet(5, nil))); !reflect.DeepEqual(one, again) {
			t.Fatalf("host %d differs from itself:\n%v\n%v", n, one, again)
		}
	}
}

func TestAnotherSeedIsAnotherHostOfTheSameAddress(t *testing.T) {
	one, other := newHost(3, newFleet(1, nil)), newHost(3, newFleet(2, nil))
	if reflect.DeepEqual(one.processes(), other.processes()) {
		t.Error("same processes with another seed")
	}
	if one.address() != other.address() || one.mac() != other.mac() {
		t.Error("addresses follow from the number alone")
	}
}

func TestHostsHaveTheSystemsAskedFor(t *testing.T) {
	for _, c := range []struct {
		systems map[string]int
		want    map[string]int // of 1000 hosts
	}{
		{nil, map[string]int{"linux": 500, "windows": 400, "darwin": 100}},
		{map[string]int{"windows": 3, "linux": 1}, map[string]int{"windows": 750, "linux": 250}},
		{map[string]int{"darwin": 1}, map[string]int{"darwin": 1000}},
		{map[string]int{"linux": 1, "windows": 1, "darwin": 2}, map[string]int{"linux": 250, "windows": 250, "darwin": 500}},
	} {
		for _, seed := range []uint64{0, 9, math.MaxUint64} {
			f, got := newFleet(seed, c.systems), map[string]int{}
			for n := range 1000 {
				got[newHost(n, f).system]++
			}
			for system, want := range c.want {
				// The last round of the mix may be cut off.
				if math.Abs(float64(got[system]-want)) > 40 || len(got) != len(c.want) {
					t.Errorf("%v, seed %d: %v", c.systems, seed, got)
				}
			}
		}
	}
}

func TestOptionsThatCannotBeAreRefused(t *testing.T) {
	for name, o := range map[string]Options{
		"unknown system":  {Systems: map[string]int{"plan9": 1}},
		"negative part":   {Systems: map[string]int{"linux": -1}},
		"no part":         {Systems: map[string]int{"linux": 0}},
		"all away":        {Churn: Churn{Offline: 1}},
		"no number":       {Churn: Churn{Offline: math.NaN()}},
		"negative wave":   {Churn: Churn{Offline: 0.5, Wave: -1}},
		"negative share":  {Manners: Manners{Slow: -0.1}},
		"share of NaN":    {Manners: Manners{Mute: math.NaN()}},
		"more than all":   {Manners: Manners{Slow: 0.6, Cut: 0.6}},
		"negative delay":  {Manners: Manners{Delay: -1}},
		"negative rate":   {Manners: Manners{ReadRate: -1}},
		"negative period": {Manners: Manners{Every: -1}},
	} {
		o.Clients, o.Identities = 1, &Identities{primes: []*big.Int{big.NewInt(3), big.NewInt(5)}}
		o.setDefaults()
		if err := o.validate(); !errors.Is(err, errOption) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEveryClientHasItsTurn(t *testing.T) {
	for _, offline := range []float64{0.1, 0.5, 0.75, 0.9, 0.99} {
		c := Churn{Offline: offline, Wave: time.Minute}
		const clients = 2000
		waves := int(math.Ceil(1/(1-offline) - 1e-9))
		turns := make([]int, clients)
		for wave := range waves {
			there := 0
			for n := range turns {
				if c.there((float64(n)+0.5)/clients, wave) {
					turns[n]++
					there++
				}
			}
			if share := float64(there) / clients; math.Abs(share-(1-offline)) > 0.005 {
				t.Errorf("%v offline: %v there in wave %d", offline, share, wave)
			}
		}
		for n, turn := range turns {
			if turn == 0 {
				t.Fatalf("%v offline: client %d had no turn in %d waves", offline, n, waves)
			}
		}
	}
	always := Churn{}
	for wave := range 10 {
		if !always.there(0, wave) || !always.there(0.999999, wave) {
			t.Fatal("without churn somebody is away")
		}
	}
}

func TestMannersHaveTheirShares(t *testing.T) {
	m := Manners{Slow: 0.1, Cut: 0.2, Resend: 0.05, Garbage: 0.05, Forge: 0.1, Mute: 0.25}
	got := map[manner]int{}
	for n := range 10_000 {
		got[m.of((float64(n)+0.5)/10_000)]++
	}
	want := map[manner]int{slow: 1000, cut: 2000, resend: 500, garbage: 500, forge: 1000, mute: 2500, orderly: 2500}
	for kind, n := range want {
		if math.Abs(float64(got[kind]-n)) > 1 {
			t.Errorf("manner %d: %d clients instead of %d", kind, got[kind], n)
		}
	}
}

func TestHistogramsOfProcessesAddUp(t *testing.T) {
	var one, other, both histogram
	for n := range 1000 {
		d := time.Duration(n*n) * time.Microsecond
		both.add(d)
		if n%3 == 0 {
			one.add(d)
		} else {
			other.add(d)
		}
	}
	sum := one.now()
	text, err := json.Marshal(other.now())
	if err != nil {
		t.Fatal(err)
	}
	var read Histogram
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	sum.Add(read)
	if want := both.now(); !reflect.DeepEqual(sum, want) {
		t.Errorf("%v\n%v", sum, want)
	}
	// A twentieth wrong at most.
	if p50 := sum.Quantile(0.5).Seconds(); p50 < 0.2495 || p50 > 0.2495*1.06 {
		t.Errorf("median %v", p50)
	}
	if l := new(histogram).now().Latency(); l != (Latency{}) {
		t.Errorf("nothing counted: %v", l)
	}
}

func TestPostsAreTimedAmongPingsAndOtherRequests(t *testing.T) {
	frame := []byte{0x82, 0x85, 1, 2, 3}
	for name, c := range map[string]struct {
		steps [][]byte // written and read in turn
		want  int
	}{
		"post over HTTP":         {[][]byte{[]byte("POST /control HTTP/1.1\r\n"), []byte("HTTP/1.1 200 OK\r\n")}, 1},
		"poll over HTTP":         {[][]byte{[]byte("POST /reader HTTP/1.1\r\n"), []byte("HTTP/1.1 200 OK\r\n")}, 0},
		"post after poll":        {[][]byte{[]byte("POST /reader HTTP/1.1\r\n"), []byte("HTTP/1.1 200 OK\r\n"), []byte("POST /control HTTP/1.1\r\n"), []byte("HTTP/1.1 200 OK\r\n")}, 1},
		"two frames":             {[][]byte{[]byte("GET /control HTTP/1.1\r\n"), []byte("HTTP/1.1 101 Switching\r\n"), frame, {0x82, 1}, frame, {0x81, 1}}, 2},
		"ping before the answer": {[][]byte{[]byte("GET /control HTTP/1.1\r\n"), []byte("HTTP/1.1 101 Switching\r\n"), frame, {0x89, 0}, {0x8a, 0x80}, {0x82, 1}}, 1},
		"pings alone":            {[][]byte{[]byte("GET /control HTTP/1.1\r\n"), []byte("HTTP/1.1 101 Switching\r\n"), {0x8a, 0x80}, {0x89, 0}}, 0},
		"frames of a reader":     {[][]byte{[]byte("GET /reader HTTP/1.1\r\n"), []byte("HTTP/1.1 101 Switching\r\n"), frame, {0x82, 1}}, 0},
		"bytes of TLS":           {[][]byte{{0x16, 3, 1}, {0x16, 3, 3}, {0x17, 3, 3}, {0x17, 3, 3}}, 0},
		"nothing":                {[][]byte{nil, nil}, 0},
	} {
		var h histogram
		line := timing{at: &h}
		for n, step := range c.steps {
			if n%2 == 0 {
				line.goes(step)
			} else {
				line.came(step)
			}
		}
		if got := h.now().Count; got != c.want {
			t.Errorf("%s: %d posts instead of %d", name, got, c.want)
		}
	}
}
