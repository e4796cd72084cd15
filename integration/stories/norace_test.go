//go:build !race

package stories_test

const raced = false
