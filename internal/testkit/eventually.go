// Package testkit helps tests of all rooms to wait.
//
// It never judges: it waits for what its caller names and shows the last state
// when it gives up.
package testkit

import (
	"testing"
	"time"
)

// patience is how long Eventually waits: far longer than anything takes, so
// that a slow machine fails no test.
const patience = 20 * time.Second

// Eventually waits until look reports done, and otherwise fails the test with
// the last state that look returned.
func Eventually(t testing.TB, what string, look func() (state any, done bool)) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for {
		state, done := look()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("gave up waiting: %s; last state: %+v", what, state)
		}
	}
}
