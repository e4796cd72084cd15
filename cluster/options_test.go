package cluster_test

import (
	"strings"
	"testing"

	"raptorpack/cluster"
	"raptorpack/ids"
)

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for want, spoil := range map[string]func(*cluster.Options){
		"no name":              func(o *cluster.Options) { o.Node = ids.Node{} },
		"has no number":        func(o *cluster.Options) { o.Incarnation = "a" },
		"is not one of node a": func(o *cluster.Options) { o.Incarnation = "b-1" },
		"gossip address":       func(o *cluster.Options) { o.BindAddress = "localhost" },
		"gossip port":          func(o *cluster.Options) { o.BindPort = 65536 },
		"advertised address":   func(o *cluster.Options) { o.AdvertiseAddress = "node.example" },
		"cannot reach 0.0.0.0": func(o *cluster.Options) { o.AdvertiseAddress = "0.0.0.0" },
		"bus port":             func(o *cluster.Options) { o.BusPort = -1 },
		"has 0 bytes, not 32":  func(o *cluster.Options) { o.Key = nil },
		"has 16 bytes, not 32": func(o *cluster.Options) { o.Key = make([]byte, 16) },
		`join address "b:x"`:   func(o *cluster.Options) { o.Join = []string{"b", "b:x"} },
	} {
		o := options(t, "a-1")
		spoil(&o)
		if c, err := cluster.New(o); err == nil {
			t.Errorf("%s: taken", want)
			_ = c.Close() // it should not be there
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		} else if strings.Contains(err.Error(), string(packKey)) {
			t.Errorf("the key is in %v", err)
		}
	}
}

func TestAllThatIsWrongIsSaidAtOnce(t *testing.T) {
	o := options(t, "a-1")
	o.Key, o.BusPort, o.Join = nil, -1, []string{"b:0", ":7946"}
	_, err := cluster.New(o)
	for _, want := range []string{"gossip key", "bus port", `"b:0"`, `":7946"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

func TestAdvertisedAddressIsWhatOthersAreTold(t *testing.T) {
	o := options(t, "a-1")
	o.AdvertiseAddress = "192.0.2.7"
	c, err := cluster.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Address(); !strings.HasPrefix(got, "192.0.2.7:") {
		t.Errorf("address is %s", got)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
