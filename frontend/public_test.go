package frontend_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"raptorpack/frontend"
)

// shelf has one public file.
type shelf struct {
	data   []byte
	broken int64 // reads from here on fail; 0: none
	opened atomic.Int64
	closed atomic.Int64
}

var errTorn = errors.New("torn")

func (s *shelf) Open(_ context.Context, name string) (*frontend.PublicFile, error) {
	switch name {
	case "tool":
	case "sick":
		return nil, errTorn
	default:
		return nil, fs.ErrNotExist
	}
	s.opened.Add(1)
	return &frontend.PublicFile{
		Hash: "abc", Size: int64(len(s.data)), At: time.Unix(1_700_000_000, 0),
		ReadAt: func(_ context.Context, p []byte, offset int64) (int, error) {
			if s.broken > 0 && offset >= s.broken {
				return 0, errTorn
			}
			return bytes.NewReader(s.data).ReadAt(p, offset)
		},
		Close: func(context.Context) { s.closed.Add(1) },
	}, nil
}

// publicDoor is a frontend that offers a shelf.
func publicDoor(t *testing.T, s *shelf) string {
	t.Helper()
	return launch(t, false, func(o *frontend.Options) { o.Public, o.BasePath = s, "/base" }).address
}

func getPublic(t *testing.T, address, name string, header ...string) (*http.Response, []byte, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/base/public/"+name, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response, text, err
}

func TestPublicFilesAreSentWholeAndInParts(t *testing.T) {
	s := &shelf{data: bytes.Repeat([]byte("0123456789"), 100_000)} // several pieces
	address := publicDoor(t, s)
	size := len(s.data)
	for _, c := range []struct {
		header []string
		status int
		want   []byte
	}{
		{nil, http.StatusOK, s.data},
		{[]string{"Range", "bytes=262140-262150"}, http.StatusPartialContent, s.data[262140:262151]},
		{[]string{"Range", "bytes=-7"}, http.StatusPartialContent, s.data[size-7:]},
		{[]string{"Range", "bytes=" + strconv.Itoa(size) + "-"}, http.StatusRequestedRangeNotSatisfiable, nil},
		{[]string{"If-None-Match", `"abc"`}, http.StatusNotModified, []byte{}},
	} {
		response, text, err := getPublic(t, address, "tool", c.header...)
		if err != nil || response.StatusCode != c.status {
			t.Errorf("%v: status %d, %v", c.header, response.StatusCode, err)
		}
		if c.want != nil && !bytes.Equal(text, c.want) {
			t.Errorf("%v: %d bytes, want %d", c.header, len(text), len(c.want))
		}
		if c.status < 400 && response.Header.Get("Etag") != `"abc"` {
			t.Errorf("%v: entity tag %q", c.header, response.Header.Get("Etag"))
		}
	}
	eventually(t, "every file closed", func() bool { return s.opened.Load() == 5 && s.closed.Load() == 5 }, func() any {
		return []int64{s.opened.Load(), s.closed.Load()}
	})
}

func TestPublicFilesThatAreNotThereAreNotSent(t *testing.T) {
	address := publicDoor(t, &shelf{})
	for name, want := range map[string]int{"other": 404, "": 404, "..%2Ftool": 404, "a/b": 404, "sick": 503} {
		response, text, err := getPublic(t, address, name)
		if err != nil || response.StatusCode != want {
			t.Errorf("%q: status %d, want %d, %v", name, response.StatusCode, want, err)
		}
		if bytes.Contains(text, []byte("torn")) {
			t.Errorf("%q tells of our insides: %s", name, text)
		}
	}
}

// What cannot be read to its end must not look whole.
func TestPublicFileThatTearsBreaksOff(t *testing.T) {
	s := &shelf{data: make([]byte, 1<<20), broken: 1 << 19}
	_, text, err := getPublic(t, publicDoor(t, s), "tool")
	if err == nil {
		t.Errorf("%d bytes came as if they were all", len(text))
	}
}
