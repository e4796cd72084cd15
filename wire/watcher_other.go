//go:build !linux

package wire

import (
	"errors"
	"syscall"
)

// poller is not there on this system: connections keep their goroutines.
type poller struct{}

func newPoller() (*poller, error) { return nil, errors.ErrUnsupported }

func (*poller) arm(syscall.RawConn, bool, int32, uint32) error { return errors.ErrUnsupported }
func (*poller) wait(func(number int32, turn uint32)) error     { return errors.ErrUnsupported }
func (*poller) interrupt()                                     {}
func (*poller) close()                                         {}
