package flows_test

import (
	"context"
	"errors"
	"testing"

	"raptorpack/flows"
)

// What all clients together make a node inflate is bounded, and small packets do
// not wait for large ones.
func TestInflatedMemoryIsSharedAndBounded(t *testing.T) {
	memory := flows.NewInflateMemory()
	var release []func()
	for range 2 {
		one, err := memory.Reserve(t.Context(), flows.MaxPacketInflated)
		if err != nil {
			t.Fatal(err)
		}
		release = append(release, one)
	}
	hurry, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := memory.Reserve(hurry, flows.MaxPacketInflated); !errors.Is(err, context.Canceled) {
		t.Errorf("a third large packet: %v", err)
	}
	small, err := memory.Reserve(t.Context(), 1<<20)
	if err != nil {
		t.Fatalf("a small packet beside large ones: %v", err)
	}
	small()
	for _, one := range release {
		one()
	}
	again, err := memory.Reserve(t.Context(), flows.MaxPacketInflated)
	if err != nil {
		t.Fatalf("room was not given back: %v", err)
	}
	again()
}
