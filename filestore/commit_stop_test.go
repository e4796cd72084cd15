package filestore_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
)

// A committer whose work is done ends at once, whenever in its loop it is told.
func TestIdleCommitterStopsAtOnce(t *testing.T) {
	s, _ := newFaulty(t)
	synctest.Test(t, func(t *testing.T) {
		for range 3000 {
			c, err := filestore.NewCommitter(filestore.CommitterOptions{
				Store: s, Incarnation: "a-1", Valid: func() bool { return true }, Outbox: &memoryOutbox{}, Logger: quiet,
			})
			check(t, err)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			began := time.Now()
			go func() { ended <- c.Run(ctx) }()
			check(t, c.Submit(t.Context(), &filestore.Commit{Facts: oneFact("x")})) // the lanes look again
			stop()
			check(t, <-ended)
			if took := time.Since(began); took > 0 {
				t.Fatalf("it took %v", took)
			}
		}
	})
}
