package ebpf

import "errors"

var (
	// ErrUnsupported means that this kernel cannot do it: older than 5.8, without
	// BTF, or on another machine than amd64 and arm64. Trying again does not help.
	ErrUnsupported = errors.New("not supported by this kernel")

	// ErrPermission means that the kernel could, but not for this user: it takes
	// root, or CAP_BPF and CAP_PERFMON. Trying again does not help.
	ErrPermission = errors.New("needs root, or CAP_BPF and CAP_PERFMON")

	// ErrUnknownEvent means that a name is not one that Known lists.
	ErrUnknownEvent = errors.New("unknown event")

	// ErrRecord means that bytes are no record of ours: a mistake in this package.
	ErrRecord = errors.New("not a record")
)
