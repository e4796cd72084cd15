// Package collections takes collections out of the pack as zips and brings in those
// that were made elsewhere.
//
// It owns how a flow becomes a container (package container) and a container a flow,
// and the folder of finished downloads. It never starts a collection, never runs a
// query, and records nothing itself: a finished import is a mutation for its caller
// to propose.
//
// Main walk: Exporter.Zip writes a flow; Downloads keeps what was made for somebody to
// fetch; Importer.Import checks and stores, flows.PlanImport records.
//
// Locking: Downloads.mu guards what is under way and is never held over I/O. All else
// has no state.
package collections
