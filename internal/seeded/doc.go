// Package seeded takes single guards of the program out, so that tests can show
// that their absence is noticed.
//
// Guards names them. Each asks Out once, where it stands. In ordinary builds Out is
// constant and false: the compiler removes the question with all that depends on
// it. A build with the tag "seeded" takes out what the environment variable
// RAPTORPACK_SEEDED names, separated by commas, and what was linked in:
//
//	go build -tags seeded -ldflags '-X raptorpack/internal/seeded.linked=sync' ./cmd/raptorpack
//
// Such a build is for tests alone.
package seeded

// Guards are the words that Out knows.
var Guards = []string{
	"lease",       // a master whose lease has lapsed acknowledges nothing
	"seal",        // what lies beyond the seal of an epoch is never applied
	"duplicates",  // what comes twice in a stream is taken once
	"sync",        // what is acknowledged is durable
	"incarnation", // a node whose lease has lapsed acknowledges nothing to clients
}
