package filestore_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/ids"
)

// Another node removed a tree. Whether or not this one was told before, what comes
// for it afterwards begins new folders and files.
func TestWritingWhereAnotherNodeRemovedTheTree(t *testing.T) {
	for _, told := range []bool{true, false} {
		disk := newDisk(t)
		synctest.Test(t, func(t *testing.T) {
			faulty := filestoretest.NewFaulty(unsynced{disk})
			s := openOn(t, faulty)
			other, err := filestore.Open("", filestore.Options{FS: faulty, Logger: quiet})
			check(t, err)
			k := launch(t, s, "a-1")
			write := func(set filestore.Set) error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				return k.Submit(ctx, &filestore.Commit{Appends: []filestore.Append{appendRows(set, client(1), flowX, "n", 0, 1)}})
			}
			set := filestore.FlowResults(ids.RootOrg, client(1), flowX, "A/B")
			check(t, write(set))
			dir := filestore.FlowDir(ids.RootOrg, client(1), flowX)
			if told {
				k.Forget(background, dir)
			}
			check(t, other.RemoveAll(background, dir))
			if !told {
				set = filestore.FlowResults(ids.RootOrg, client(1), flowX, "A/C") // its own file is open still
			}
			check(t, write(set))
			if text, _ := export(t, other, set); text == "" {
				t.Error("what was acknowledged is not there")
			}
			k.stop()
			check(t, other.Close(background))
		})
	}
}
