package filestore

import (
	"io"
	"io/fs"
)

// FS is what the store asks of a filesystem. Paths are slash-separated and
// relative to the store's root. Implementations return the errors of the
// system calls, so that callers can tell ESTALE from ENOSPC, and are safe for
// concurrent use.
//
// There is no append mode and no truncation of somebody else's file: a writer
// keeps its own offset (NFS has no atomic append between hosts).
type FS interface {
	// Open opens an existing file for reading. Every call is a fresh open(2),
	// which is what makes other hosts' writes visible on NFS (close-to-open).
	Open(path string) (File, error)

	// Create makes a new file for reading and writing, O_EXCL, mode 0640.
	Create(path string) (File, error)

	// OpenWrite opens an existing file for reading and writing.
	OpenWrite(path string) (File, error)

	// Mkdir makes one directory, mode 0750.
	Mkdir(path string) error

	// Link makes newpath another name of oldpath, or fails with fs.ErrExist.
	Link(oldpath, newpath string) error

	// Rename replaces newpath by oldpath.
	Rename(oldpath, newpath string) error

	// Remove removes a file or an empty directory.
	Remove(path string) error

	// ReadDir lists a directory by a fresh opendir, sorted by name.
	ReadDir(path string) ([]fs.DirEntry, error)

	// Stat describes a path; on NFS its answer may be cached.
	Stat(path string) (fs.FileInfo, error)

	// SyncDir makes the names in a directory durable.
	SyncDir(path string) error
}

// File is an open file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer

	// Sync makes everything written through this file durable. After an error
	// the file's unsynced content is undefined and must not be relied on.
	Sync() error

	// Truncate sets the size of a file that only its writer knows yet.
	Truncate(size int64) error

	// Stat describes the open file: its size is what the server said at open.
	Stat() (fs.FileInfo, error)
}
