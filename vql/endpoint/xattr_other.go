//go:build !linux && !darwin

package endpoint

import "errors"

// xattr is declared for Linux and macOS, so these are never reached.

func listAttributes(string) ([]string, error) { return nil, errors.ErrUnsupported }

func readAttribute(string, string) ([]byte, error) { return nil, errors.ErrUnsupported }
