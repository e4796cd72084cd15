//go:build linux || darwin

package endpoint

import (
	"bytes"
	"errors"

	"golang.org/x/sys/unix"
)

// maxAttribute is the longest list or value of attributes in bytes; the kernels
// allow 64 KiB on Linux and 128 KiB on macOS.
const maxAttribute = 256 << 10

func listAttributes(name string) ([]string, error) {
	data, err := sized(func(buf []byte) (int, error) { return unix.Llistxattr(name, buf) })
	if err != nil {
		return nil, err
	}
	var out []string
	for _, part := range bytes.Split(data, []byte{0}) {
		if len(part) > 0 {
			out = append(out, string(part))
		}
	}
	return out, nil
}

func readAttribute(name, attribute string) ([]byte, error) {
	return sized(func(buf []byte) (int, error) { return unix.Lgetxattr(name, attribute, buf) })
}

// sized calls with a larger buffer until the result fits.
func sized(call func([]byte) (int, error)) ([]byte, error) {
	for size := 1 << 10; ; size *= 4 {
		buf := make([]byte, size)
		n, err := call(buf)
		if errors.Is(err, unix.ERANGE) && size < maxAttribute {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}
