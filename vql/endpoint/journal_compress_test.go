package endpoint

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"
)

func TestExpandFieldXZ(t *testing.T) {
	text := strings.Repeat("MESSAGE=some text ", 500)
	var packed bytes.Buffer
	w, err := xz.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := expandField(compressedXZ, packed.Bytes(), 1<<20); err != nil || string(got) != text {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := expandField(compressedXZ, packed.Bytes(), 100); !errors.Is(err, errCut) || len(got) != 100 {
		t.Errorf("cut: %d bytes, %v", len(got), err)
	}
	if _, err := expandField(compressedXZ, packed.Bytes()[:packed.Len()/2], 1<<20); err == nil {
		t.Error("half a stream is taken")
	}
}

// The block is written by hand after the format's page.
func TestExpandFieldLZ4(t *testing.T) {
	const text = "abcdabcdabcdabcdabcdabcdEND.."
	block := "\x4fabcd\x04\x00\x01\x50END.."
	size := func(n byte) string { return string([]byte{n, 0, 0, 0, 0, 0, 0, 0}) }
	if got, err := expandField(compressedLZ4, []byte(size(29)+block), 1<<20); err != nil || string(got) != text {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := expandField(compressedLZ4, []byte(size(29)+block), 10); !errors.Is(err, errCut) || string(got) != text[:10] {
		t.Errorf("cut: %q, %v", got, err)
	}
	for _, bad := range []string{"", "1234567", size(29) + "\x0f", size(29) + "\x0f\x09\x00\x00", size(29) + "\xff\xff", size(255)[:7] + "\x7f" + block} {
		if _, err := expandField(compressedLZ4, []byte(bad), 1<<20); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzExpandField(f *testing.F) {
	f.Add(byte(compressedLZ4), []byte("\x1d\x00\x00\x00\x00\x00\x00\x00\x4fabcd\x04\x00\x01\x50END.."))
	f.Add(byte(compressedXZ), []byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00"))
	f.Add(byte(compressedZSTD), []byte("\x28\xb5\x2f\xfd\x04\x00"))
	f.Fuzz(func(t *testing.T, flags byte, data []byte) {
		if got, _ := expandField(flags, data, 1000); len(got) > 1000 {
			t.Errorf("%d bytes", len(got))
		}
	})
}
