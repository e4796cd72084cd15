// Package artifacts owns definitions: it loads and checks files in the community's
// format, compiles them to requests, and answers calls of artifacts in queries.
//
// It runs nothing by itself and stores nothing: folders and embedded files are
// read by Load, custom definitions of the pack come through Room.Apply. Compiling
// is pure.
//
// Main walk: Parse -> Repository -> Compile (the server, towards a client) and
// Repository.CallArtifact (whoever runs a query that names an artifact).
//
// Locking: definitions are immutable. A Repository guards its table by one
// RWMutex; parsing, checking and running happen outside of it.
package artifacts
