package filestore_test

import "testing"

func TestUsageOfTheRealDisk(t *testing.T) {
	usage, err := newDisk(t).Usage()
	check(t, err)
	if usage.Total <= 0 || usage.Free < 0 || usage.Used() < 0 || usage.Used() > 1 {
		t.Errorf("got %+v, used %v", usage, usage.Used())
	}
}
