// Package container is the layout of a zip that holds one collection: rows, logs and
// uploads, a record of what ran, and a manifest with the hash of each.
//
// The offline collector and the export of a flow write it, the import of collections
// reads it; DESIGN.md has the layout, with that of stock offline collectors, which is
// read as well. It owns names, kinds and documents in such a zip and whether one is
// sound. It never knows a client, a flow or a store.
//
// Main walk: NewWriter, Document, Member, Close; Open, then Record, Results, Lines,
// Uploads.
//
// Locking: none. A Writer belongs to one goroutine, a Reader is not changed after Open.
package container
