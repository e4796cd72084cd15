//go:build !windows

package endpoint

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// ownGroup makes a program leader of its own process group, so that its children
// end with it when the query is cancelled.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
}
