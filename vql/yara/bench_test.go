package yara_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"raptorpack/vql/yara"
)

// benchRules makes rules of three kinds of strings that random data almost has.
func benchRules() string {
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "rule r%d { strings: $a = \"word%04x\" nocase wide ascii $b = { %02x 0%x 77 ?? [1-4] 31 %02x } $c = /k%d[0-9a-f]{2,8}(ab|cd)+/ condition: any of them }\n",
			i, i*7919, i*37%256, i%16, i*91%256, i)
	}
	return b.String()
}

func BenchmarkScan(b *testing.B) {
	r := compile(b, benchRules())
	random := rand.NewChaCha8([32]byte{1})
	for _, size := range []int{64, 1 << 20, 16 << 20} {
		data := make([]byte, size)
		_, _ = random.Read(data) // never fails
		target := whole(string(data))
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := r.Scan(b.Context(), target, yara.ScanOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	text := benchRules()
	for b.Loop() {
		r, err := engine.Compile(b.Context(), yara.Source{Text: text})
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTranslate is what the first rules of a process wait for.
func BenchmarkTranslate(b *testing.B) {
	for b.Loop() {
		e := yara.New(yara.Options{})
		if _, err := e.Compile(b.Context(), yara.Source{Text: "rule a { condition: true }"}); err != nil {
			b.Fatal(err)
		}
		if err := e.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
