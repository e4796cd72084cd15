// Package notebooks keeps what notebooks have: today their timelines, rows of any query
// that lie sorted by time, and are read back merged.
//
// It owns the replicated state of kind "notebooks" (which super timelines a notebook
// has, of which children they are made, and where the rows of each lie), and those
// rows on the filestore. It never runs a query, never sorts (rows come to it in
// order), and never looks into a row but for its time.
//
// Main walk: Files.Begin, Writer.Append and Writer.Close make the rows of a child
// durable under a name that nobody used; the entry of PlanAdd then names them, on every
// node at once. Files.Merge reads the children that the state names. What no child
// names any more is Unused, and whoever leads removes it (Files.Sweep) and says so
// (PlanSwept). DESIGN.md has the rule that keeps deleting and writing apart.
//
// Locking: Room.mu guards the state, whose records are immutable and replaced whole;
// Apply and Restore are the only writers. No lock is held during a file operation. A
// Writer and a merge belong to one goroutine.
package notebooks
