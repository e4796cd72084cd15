package ebpf

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContainerIDStandsInCgroupNames(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, c := range []struct {
		cgroups []string
		want    string
	}{
		{[]string{id, "docker"}, id},
		{[]string{"docker-" + id + ".scope", "system.slice"}, id},
		{[]string{"cri-containerd-" + id + ".scope", "kubepods-pod1.slice"}, id},
		{[]string{"init.scope", "libpod-" + id + ".scope"}, id},
		{[]string{"libpod-conmon-" + id + ".scope", "machine.slice"}, ""},
		{[]string{"session-1.scope", "user-0.slice"}, ""},
		{[]string{id + "0"}, ""},
		{[]string{id[1:]}, ""},
		{nil, ""},
	} {
		if got := ContainerID(c.cgroups); got != c.want {
			t.Errorf("%v: got %q, want %q", c.cgroups, got, c.want)
		}
	}
}
