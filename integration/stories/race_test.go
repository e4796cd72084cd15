//go:build race

package stories_test

// raced tells that the race detector is on: inflating takes ten times as long.
const raced = true
