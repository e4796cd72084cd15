//go:build race

package notebooks_test

func init() { raceEnabled = true }
