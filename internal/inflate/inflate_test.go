package inflate_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/zlib"

	"raptorpack/internal/inflate"
)

func deflated(t *testing.T, plain string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zlib.NewWriter(&out)
	if _, err := z.Write([]byte(plain)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestStreamsOneAfterTheOther(t *testing.T) {
	for _, plain := range []string{"first", "", "third, after which comes more"} {
		r, err := inflate.NewReader(append(deflated(t, plain), "xyz"...))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			got, err := io.ReadAll(r)
			if err != nil || string(got) != plain || r.Behind() != 3 {
				t.Errorf("%q, %v, %d bytes behind; want %q and 3", got, err, r.Behind(), plain)
			}
			if err := r.Rewind(); err != nil {
				t.Fatal(err)
			}
		}
		r.Close()
	}
}

func TestDamageIsAnErrorAndHarmsNoLaterStream(t *testing.T) {
	good := deflated(t, "good")
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1 // of the checksum
	for name, stream := range map[string][]byte{"nothing": nil, "no header": []byte("abc"), "cut": good[:len(good)-2], "flipped": flipped} {
		r, err := inflate.NewReader(stream)
		if err == nil {
			_, err = io.ReadAll(r)
			r.Close()
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		r, err = inflate.NewReader(good)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != "good" {
			t.Errorf("after %s: %q, %v", name, got, err)
		}
		r.Close()
	}
}
