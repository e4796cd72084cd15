package vql

import "context"

// Sorter sorts rows by a key for primitives, as ORDER BY does: stable, in memory up to
// Limits.SpillBytes and in a temporary file beyond. It belongs to one goroutine.
type Sorter struct{ m merger }

// NewSorter makes a sorter. Close it.
func (s *Scope) NewSorter() *Sorter { return &Sorter{merger{scope: s}} }

// Add takes a row. Keys are compared as ORDER BY compares them.
func (s *Sorter) Add(row, key Value) error { return s.m.add(row, makeKey(s.m.scope, key)) }

// Emit hands out all rows in order and returns what emit returned, ctx's error, or that
// rows could not be read back. Nothing may be added any more.
func (s *Sorter) Emit(ctx context.Context, emit Emit) error {
	s.m.sort()
	return s.m.merge(func(row any) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return emit(row)
	})
}

// Close removes the temporary file.
func (s *Sorter) Close() { s.m.close() }
