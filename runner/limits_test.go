package runner

import (
	"testing"

	"raptorpack/proto/wirepb"
)

func TestRequestsSayTheirShareOfTheMachine(t *testing.T) {
	for _, tc := range []struct {
		name    string
		args    *wirepb.VQLCollectorArgs
		limited bool
	}{
		{"none", &wirepb.VQLCollectorArgs{}, false},
		{"processors", &wirepb.VQLCollectorArgs{CpuLimit: 20}, true},
		{"operations", &wirepb.VQLCollectorArgs{IopsLimit: 50}, true},
		{"all of them", &wirepb.VQLCollectorArgs{CpuLimit: 100}, false},
	} {
		l := (&query{args: tc.args}).limits()
		if limited := l.Throttle != nil; limited != tc.limited {
			t.Errorf("%s: limited %v, want %v", tc.name, limited, tc.limited)
		}
	}
}
