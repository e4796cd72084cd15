package vql_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"raptorpack/vql"
)

var errEnough = errors.New("enough")

// What a primitive sorts comes back in order, rows of one key as they came, whether it
// fits into memory or not; and times to the nanosecond.
func TestSorterIsStableAndSpills(t *testing.T) {
	for _, size := range []int64{1, 5000, 1 << 30} {
		dir := t.TempDir()
		scope, _ := session(t, vql.SessionOptions{Limits: vql.Limits{SpillBytes: size, TempDir: dir}})
		s := scope.NewSorter()
		chance := rand.New(rand.NewPCG(1, 2))
		for i := range 500 {
			at := time.Unix(1_700_000_000, int64(chance.IntN(50)))
			if err := s.Add(fmt.Sprintf("%d %03d", at.UnixNano(), i), at); err != nil {
				t.Fatal(err)
			}
		}
		last, rows := "", 0
		err := s.Emit(context.Background(), func(row vql.Value) error {
			text, _ := row.(string)
			if text <= last {
				return fmt.Errorf("%q after %q", text, last)
			}
			last = text
			rows++
			return nil
		})
		if err != nil || rows != 500 {
			t.Errorf("at %d bytes: %d rows, %v", size, rows, err)
		}
		if spilled := scope.Stats().BytesSpilled > 0; spilled != (size < 1<<30) {
			t.Errorf("at %d bytes: spilled %v", size, spilled)
		}
		s.Close()
		scope.Close()
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("temporary files are left: %v, %v", left, err)
		}
	}
}

func TestSorterStopsWhenToldSo(t *testing.T) {
	scope, _ := session(t, vql.SessionOptions{})
	defer scope.Close()
	s := scope.NewSorter()
	defer s.Close()
	for i := range 3 {
		if err := s.Add(i, i); err != nil {
			t.Fatal(err)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Emit(ended, func(vql.Value) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := s.Emit(context.Background(), func(vql.Value) error { return errEnough }); !errors.Is(err, errEnough) {
		t.Errorf("refused: %v", err)
	}
}
