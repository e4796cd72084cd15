package flows_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

func buffer(key flows.Key, number, offset int64, data string) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: key.Flow.String(), FileBuffer: &wirepb.FileBuffer{
		Pathspec: &wirepb.PathSpec{Path: "/etc/passwd", Accessor: "file", Components: []string{"etc", "passwd"}},
		Offset:   uint64(offset), Data: []byte(data), UploadNumber: number, StoredSize: uint64(offset) + uint64(len(data)),
	}}
}

func eof(key flows.Key, number, size int64) *wirepb.VeloMessage {
	m := buffer(key, number, size, "")
	m.FileBuffer.Eof, m.FileBuffer.Size = true, uint64(size)
	return m
}

func transaction(key flows.Key, number int64) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: key.Flow.String(), UploadTransaction: &wirepb.UploadTransaction{
		Filename: "/etc/passwd", Accessor: "file", UploadId: number, Mode: 0o644, Mtime: 1_700_000_000_000_000_000, Atime: -1,
	}}
}

func doneUploads(key flows.Key, files int64) *wirepb.VeloMessage {
	s := status(wirepb.VeloStatus_OK, 0, "")
	s.UploadedFiles = files
	return complete(key, s)
}

func uploadKey(key flows.Key, number int64) filestore.UploadKey {
	return filestore.UploadKey{Org: key.Org, Client: key.Client, Flow: key.Flow, Number: number}
}

func TestUploadIsStoredListedAndCounted(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start()
	second := buffer(key, 0, 5, "world")
	second.FileBuffer.UncompressedLength, second.FileBuffer.Data = 5, deflate([]byte("world"))
	n.send(transaction(key, 0), buffer(key, 0, 0, "hello"))
	n.send(second, eof(key, 0, 10), eof(key, 1, 0), doneUploads(key, 2))

	n.want(key, flows.Completed)
	data, named := w.disk.Upload(uploadKey(key, 0))
	if string(data) != "helloworld" || !named {
		t.Fatalf("stored %q, named %v", data, named)
	}
	list, err := n.Uploads(t.Context(), key)
	if err != nil || len(list) != 2 {
		t.Fatalf("uploads %+v, %v", list, err)
	}
	sum := sha256.Sum256([]byte("helloworld"))
	u := list[0]
	if u.SHA256 != hex.EncodeToString(sum[:]) || u.Size != 10 || u.Source != "/etc/passwd" || u.Accessor != "file" ||
		strings.Join(u.Components, "/") != "etc/passwd" || u.MTime != "2023-11-14T22:13:20Z" || u.ATime != "" || u.Mode != 0o644 {
		t.Errorf("upload %+v", u)
	}
	if f := n.flow(key); f.UploadBytes() != 10 || f.Uploads.Len() != 2 {
		t.Errorf("record counts %d bytes of %s", f.UploadBytes(), f.Uploads)
	}
}

func TestUploadResendWritesOnce(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start()
	packet := func() []*wirepb.VeloMessage {
		return []*wirepb.VeloMessage{buffer(key, 0, 0, "abc"), buffer(key, 0, 3, "def"), eof(key, 0, 6), doneUploads(key, 1)}
	}
	n.committer.Torn = func(c *filestore.Commit) error {
		if len(c.Facts) > 0 {
			return flowstest.ErrInjected // bytes and list are there, the end is not told
		}
		return nil
	}
	mustErr(t, n.try(packet()...), flows.ErrTryAgain)
	n.committer.Torn = nil
	n.send(packet()...)
	n.want(key, flows.Completed)
	before := w.disk.Commits()
	n.send(packet()...)
	if w.disk.Commits() != before {
		t.Error("a resend was stored again")
	}
	if data, _ := w.disk.Upload(uploadKey(key, 0)); string(data) != "abcdef" {
		t.Errorf("stored %q", data)
	}
}

func TestUploadThroughTwoNodesIsWhole(t *testing.T) {
	w := newWorld(t)
	a, b := w.node(), w.node()
	key := w.start()
	a.send(buffer(key, 0, 0, "abc"))
	b.send(buffer(key, 0, 3, "def"), eof(key, 0, 6), doneUploads(key, 1))
	a.want(key, flows.Completed)
	if data, named := w.disk.Upload(uploadKey(key, 0)); string(data) != "abcdef" || !named {
		t.Errorf("stored %q, named %v", data, named)
	}
}

// The client heard no answer from the first node and sends all to another.
func TestUploadThatEndsOnTwoNodesCountsOnce(t *testing.T) {
	w := newWorld(t)
	a, b := w.node(), w.node()
	key := w.start()
	a.send(buffer(key, 0, 0, "abc"), eof(key, 0, 3))
	b.send(buffer(key, 0, 0, "abc"), eof(key, 0, 3), buffer(key, 1, 0, "de"), eof(key, 1, 2), doneUploads(key, 2))
	if err := a.TellDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.deliver()
	if f := a.want(key, flows.Completed); f.UploadBytes() != 5 || len(f.Parts) != 2 {
		t.Errorf("%d bytes of %d parts", f.UploadBytes(), len(f.Parts))
	}
}

// Records and facts of an earlier version tell only the sum per incarnation.
func TestUploadBytesWithoutSizesAreCounted(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start()
	old := &buspb.FlowCoverage{
		Key: &buspb.FlowKey{Client: key.Client.String(), Flow: key.Flow.String()}, Incarnation: "old-1", Uploads: []int64{0, 1}, UploadBytes: 7,
	}
	tell := func(c *buspb.FlowCoverage) {
		body, err := proto.Marshal(&buspb.FlowsBody{Changes: []*buspb.FlowChange{{Change: &buspb.FlowChange_Coverage{Coverage: c}}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.ledger.Propose(&buspb.Mutation{Kind: flows.Kind, Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	tell(old)
	n.send(buffer(key, 1, 0, "abc"), eof(key, 1, 3), doneUploads(key, 2))
	if f := n.want(key, flows.Completed); f.UploadBytes() != 10 {
		t.Errorf("%d bytes", f.UploadBytes())
	}
	restored, err := flowstest.Dump(n.Table)
	if err != nil {
		t.Fatal(err)
	}
	fresh := w.node()
	if err := fresh.Restore(strings.NewReader(restored)); err != nil {
		t.Fatal(err)
	}
	if f := fresh.flow(key); f.UploadBytes() != 10 {
		t.Errorf("%d bytes after a restore", f.UploadBytes())
	}
	old.UploadSizes = []int64{0, 7} // the dead are read again by this version
	tell(old)
	if f := n.flow(key); f.UploadBytes() != 10 {
		t.Errorf("%d bytes when the sizes are known", f.UploadBytes())
	}
}

func TestUploadThatMissesBytesIsRefusedThenGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		key := w.start()
		n.send(buffer(key, 0, 0, "abc"))
		mustErr(t, n.try(eof(key, 0, 6)), flows.ErrTryAgain)
		time.Sleep(5 * time.Minute)
		n.send(eof(key, 0, 6), doneUploads(key, 1))
		f := n.want(key, flows.Waiting)
		if f.Uploads.Len() != 0 || !strings.Contains(w.letters(), "bytes are missing") {
			t.Errorf("uploads %s, dead letters %q", f.Uploads, w.letters())
		}
		// The same bytes still may come, and then it is whole.
		n.send(buffer(key, 0, 3, "def"))
		n.send(eof(key, 0, 6))
		n.want(key, flows.Completed)
	})
}

func TestUploadsWithoutBytesCountAsUploads(t *testing.T) {
	cases := []struct {
		name   string
		limits flows.Limits
		step   int64
		kept   int64
		reason string
	}{
		{"as many as asked for", flows.Limits{Uploads: 2}, 1, 2, "limit of 2 uploads"},
		{"scattered numbers", flows.Limits{}, 2, 4096, "too scattered"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			key := w.start(func(s *flows.Start) { s.Limits = c.limits })
			var messages []*wirepb.VeloMessage
			for i := range c.kept + 10 {
				messages = append(messages, eof(key, i*c.step, 0))
			}
			n.send(messages[:c.kept]...)
			n.send(messages[c.kept:]...)
			if f := n.want(key, flows.Errored); !strings.Contains(f.Error, c.reason) || f.Uploads.Len() != c.kept {
				t.Errorf("error %q, %d uploads", f.Error, f.Uploads.Len())
			}
		})
	}
}

func TestWhatIsSaidOfUploadsIsBounded(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start()
	say := func(number int64) *wirepb.VeloMessage {
		m := transaction(key, number)
		m.UploadTransaction.Filename = strings.Repeat("x", 16<<10)
		return m
	}
	for i := range int64(1000) {
		n.send(say(i))
	}
	if got := n.AboutBytes(key); got > flows.MaxAboutBytes || got < flows.MaxAboutBytes/2 {
		t.Errorf("%d bytes are kept", got)
	}
	before := n.AboutBytes(key)
	n.send(eof(key, 0, 0))
	n.send(say(0)) // a resend of what is over
	if got := n.AboutBytes(key); got >= before {
		t.Errorf("%d bytes are kept after an end, %d before", got, before)
	}
	if list, err := n.Uploads(t.Context(), key); err != nil || len(list) != 1 || len(list[0].Source) < 16<<10 {
		t.Errorf("listed %d uploads, %v", len(list), err)
	}
}

// Bytes that are refused for good do not hold up what came with them.
func TestUploadEndsWithItsRefusedBytes(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	key := w.start(func(s *flows.Start) { s.Limits.UploadBytes = 3 })
	n.send(rows(key, procs, 0, 2), buffer(key, 0, 0, "abcd"), eof(key, 0, 4))
	if f := n.want(key, flows.Errored); !strings.Contains(f.Error, "limit of 3 byte") {
		t.Errorf("error %q", f.Error)
	}
	w.stored(key, "Linux.Sys.Pslist", 2)

	key = w.start()
	damaged := buffer(key, 0, 0, "abcd")
	damaged.FileBuffer.UncompressedLength = 9
	n.send(rows(key, procs, 0, 2), damaged, eof(key, 0, 4), doneUploads(key, 1))
	n.want(key, flows.Waiting)
	w.stored(key, "Linux.Sys.Pslist", 2)
}

func TestSparseIndexIsChecked(t *testing.T) {
	r := func(file, original, stored, length int64) *wirepb.Range {
		return &wirepb.Range{FileOffset: file, OriginalOffset: original, FileLength: stored, Length: length}
	}
	cases := []struct {
		name   string
		ranges []*wirepb.Range
		fine   bool
	}{
		{"data, hole, data", []*wirepb.Range{r(0, 0, 2, 2), r(2, 2, 0, 1<<30), r(2, 2+1<<30, 4, 4)}, true},
		{"only holes", []*wirepb.Range{r(0, 0, 0, 100)}, true},
		{"petabytes", []*wirepb.Range{r(0, 0, 6, 6), r(6, 6, 0, 1<<50)}, false},
		{"overlap", []*wirepb.Range{r(0, 0, 4, 4), r(4, 2, 2, 2)}, false},
		{"not one after the other", []*wirepb.Range{r(0, 0, 2, 2), r(9, 2, 4, 4)}, false},
		{"lengths differ", []*wirepb.Range{r(0, 0, 6, 9)}, false},
		{"negative", []*wirepb.Range{r(0, -1, 6, 6)}, false},
		{"overflow", []*wirepb.Range{r(0, 1<<62, 6, 1<<62)}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			key := w.start()
			last := eof(key, 0, 6)
			last.FileBuffer.Index = &wirepb.Index{Ranges: c.ranges}
			last.FileBuffer.Offset, last.FileBuffer.Size, last.FileBuffer.StoredSize = 0, 0, 0
			n.send(buffer(key, 0, 0, "abcdef"), last, doneUploads(key, 1))
			if c.fine {
				n.want(key, flows.Completed)
				return
			}
			n.want(key, flows.Waiting)
			if !strings.Contains(w.letters(), "index of a sparse file") {
				t.Errorf("dead letters %q", w.letters())
			}
		})
	}
}

func TestUploadNames(t *testing.T) {
	cases := []struct {
		spec *wirepb.PathSpec
		want string
	}{
		{&wirepb.PathSpec{Components: []string{"a", "", "b"}}, "a/b"},
		{&wirepb.PathSpec{Components: []string{""}, Path: "sp.bin"}, "sp.bin"},
		{&wirepb.PathSpec{Path: `C:\Windows\x`}, "C:/Windows/x"},
		{&wirepb.PathSpec{}, "unnamed"},
		{nil, "unnamed"},
		{&wirepb.PathSpec{Components: []string{"..", "..", "etc"}}, "../../etc"}, // the store escapes each component
	}
	for _, c := range cases {
		w := newWorld(t)
		n := w.node()
		key := w.start()
		m := eof(key, 0, 0)
		m.FileBuffer.Pathspec = c.spec
		n.send(m)
		list, err := n.Uploads(t.Context(), key)
		if err != nil || len(list) != 1 || strings.Join(list[0].Components, "/") != c.want {
			t.Errorf("%v: stored as %+v, %v; want %s", c.spec, list, err, c.want)
		}
	}
	w := newWorld(t)
	n := w.node()
	key := w.start()
	m := eof(key, 0, 0)
	m.FileBuffer.Pathspec = &wirepb.PathSpec{Components: strings.Split(strings.Repeat("a/", 500), "/")}
	n.send(m)
	if !strings.Contains(w.letters(), "upload name") {
		t.Errorf("dead letters %q", w.letters())
	}
}
