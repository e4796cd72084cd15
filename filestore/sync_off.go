//go:build raptorpack_nosync

package filestore

// syncing: this build acknowledges what it has not made durable. It exists so that
// a test can fail.
const syncing = false
