// Package reference proves that the query language has what artifacts call.
//
// testdata/stages.txt is the contract of the three stages of primitives, 199 names
// with their arguments and permissions. The tests hold the declarations of
// endpoints and servers against it, line by line; what differs by intent stands in
// deviations_test.go with its reason. The package has no code of its own.
package reference
