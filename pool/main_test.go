package pool_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(partVariable); kind != "" {
		os.Exit(part(kind))
	}
	goleak.VerifyTestMain(m)
}
