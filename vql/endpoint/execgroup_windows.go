package endpoint

import (
	"os/exec"
	"syscall"
)

// ownGroup keeps console signals meant for us away from the program. Its children
// outlive it here.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}
