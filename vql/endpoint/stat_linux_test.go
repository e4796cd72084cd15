package endpoint

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnknownDevicesAreRemembered(t *testing.T) {
	f := &statFacts{device: unix.Mkdev(4000, 7)}
	if kind := filesystemType(f); kind != "" {
		t.Errorf("type %q", kind)
	}
	filesystemTypes.RLock()
	defer filesystemTypes.RUnlock()
	if _, known := filesystemTypes.byDevice[f.device]; !known {
		t.Error("every file of the device reads the mount table")
	}
}
