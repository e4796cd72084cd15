// Package archive writes and reads zip files that hold what strangers sent, with
// AES-256 encryption (WinZip AE-2) if there is a password.
//
// It owns the bytes of members and nothing of what they mean: names are checked, sizes
// bounded and hashes made here; layouts and manifests are their writers'. It never
// writes outside the writer that it was given.
//
// Reading trusts nothing: a directory with unsafe or equal names is refused whole, a
// member ends where the directory says, all members together are bounded, and of an
// encrypted member the authentication code is checked.
package archive
