package flows_test

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"raptorpack/flows"
)

// upload checks that readers see one upload of the flow, whole.
func (p *pack) upload(key flows.Key, number int64, want string) flows.Upload {
	p.t.Helper()
	file, about, err := p.master.OpenUpload(p.t.Context(), key, number)
	p.must(err)
	defer file.Close(p.t.Context()) // read only: its error says nothing
	data, err := io.ReadAll(file.Stored(p.t.Context()))
	p.must(err)
	if string(data) != want {
		p.t.Errorf("upload %d is %q, want %q", number, data, want)
	}
	return about
}

func TestUploadOverTwoNodes(t *testing.T) {
	for _, dies := range []bool{false, true} {
		inPack(t, func(t *testing.T, p *pack) {
			a, b := p.nodes[0], p.nodes[1]
			key := p.started()
			a.take(transaction(key, 0), buffer(key, 0, 0, "abc"))
			if dies {
				p.kill(a)
			}
			b.take(buffer(key, 0, 3, "def"))
			b.give(eof(key, 0, 6), doneUploads(key, 1))
			p.want(key, flows.Completed)
			u := p.upload(key, 0, "abcdef")
			if u.Mode != 0o644 || u.Source != "/etc/passwd" || u.MTime != "2023-11-14T22:13:20Z" || u.Conflict {
				t.Errorf("what the client said to the other node is lost: %+v", u)
			}
		}, "a", "b")
	}
}

// The end is in a packet of which the first node's answer was lost.
func TestUploadThatEndsOnTwoNodes(t *testing.T) {
	t.Run("one after the other", func(t *testing.T) {
		inPack(t, func(t *testing.T, p *pack) {
			a, b := p.nodes[0], p.nodes[1]
			key := p.started()
			for _, m := range []*member{a, b} {
				m.take(buffer(key, 0, 0, "abc"))
			}
			for _, m := range []*member{a, b, a} {
				m.take(buffer(key, 0, 3, "def"), eof(key, 0, 6), doneUploads(key, 1))
			}
			p.deliver()
			f := p.want(key, flows.Completed)
			if f.UploadBytes() != 6 || f.Uploads.Len() != 1 {
				t.Errorf("record counts %d bytes of %d uploads", f.UploadBytes(), f.Uploads.Len())
			}
			p.upload(key, 0, "abcdef")
			list, err := p.master.Uploads(t.Context(), key)
			p.must(err)
			if len(list) != 1 {
				t.Errorf("listed %d times", len(list))
			}
		}, "a", "b")
	})
	t.Run("at once", func(t *testing.T) {
		inPack(t, func(t *testing.T, p *pack) {
			a, b := p.nodes[0], p.nodes[1]
			key := p.started()
			a.take(buffer(key, 0, 0, "abc"))
			b.take(buffer(key, 0, 3, "def"))
			errs := make(chan error, 2)
			for _, m := range []*member{a, b} {
				go func() { errs <- m.try(eof(key, 0, 6), doneUploads(key, 1)) }()
			}
			for range 2 {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			synctest.Wait()
			p.deliver()
			p.want(key, flows.Completed)
			if u := p.upload(key, 0, "abcdef"); !strings.HasSuffix(u.StoredPath, "/passwd") {
				t.Errorf("stored as %s", u.StoredPath)
			}
		}, "a", "b")
	})
}

// The client was restarted, the file had changed, and it begins anew.
func TestUploadBegunAnew(t *testing.T) {
	t.Run("shorter, on one node", func(t *testing.T) {
		inPack(t, func(t *testing.T, p *pack) {
			a := p.nodes[0]
			key := p.started()
			a.take(buffer(key, 0, 0, "old "), buffer(key, 0, 4, "bytes"))
			a.take(buffer(key, 0, 0, "new"))
			a.give(eof(key, 0, 3), doneUploads(key, 1))
			p.want(key, flows.Completed)
			p.upload(key, 0, "new")
		}, "a")
	})
	t.Run("on another node", func(t *testing.T) {
		inPack(t, func(t *testing.T, p *pack) {
			a, b := p.nodes[0], p.nodes[1]
			key := p.started()
			a.take(buffer(key, 0, 0, "old "), buffer(key, 0, 4, "byt"))
			b.take(buffer(key, 0, 0, "new "))
			a.take(buffer(key, 0, 4, "one"))
			a.give(eof(key, 0, 7), doneUploads(key, 1))
			p.want(key, flows.Completed)
			if u := p.upload(key, 0, "new one"); !u.Conflict {
				t.Error("that other bytes came before is not told")
			}
		}, "a", "b")
	})
}

// A number that is used for two files: the first stays, the second is told.
func TestUploadNumberUsedTwice(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		a, b := p.nodes[0], p.nodes[1]
		key := p.started()
		a.give(buffer(key, 0, 0, "abc"), eof(key, 0, 3))
		other := buffer(key, 0, 0, "xyz1")
		last := eof(key, 0, 4)
		last.FileBuffer.Pathspec.Components = []string{"etc", "shadow"}
		b.take(other)
		b.give(last)
		p.upload(key, 0, "abc")
		wantLetters(t, p, "upload 0 ended but")
	}, "a", "b")
}
