// Package filestoretest is the test kit of package filestore: filesystems that
// fail as told, one that loses what was not synced, and the contract that each
// FS has to keep.
//
//	Faulty    wraps any FS: errors, hangs, delays, lost answers, torn writes,
//	          failed syncs that drop data, a disk of limited size
//	PowerCut  a directory that after Cut holds only what was durable
//	Run       the contract suite
//
// They combine: NewFaulty(NewPowerCut(t, seed)). None of it is for production.
package filestoretest
