//go:build !raptorpack_nosync

package filestore

// syncing is false only in builds that tests make to see that power cuts are
// noticed (integration, tag raptorpack_nosync).
const syncing = true
