//go:build !unix

package filestoretest

import "io/fs"

func linkCount(fs.FileInfo) int { return 0 }
