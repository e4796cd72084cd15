package yara_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"raptorpack/vql/yara"
)

// FuzzRules gives libyara any text as rules: it may refuse it or run out of time,
// but not break.
func FuzzRules(f *testing.F) {
	for _, seed := range []string{
		`rule a : t { meta: m = "x" strings: $a = "a" wide nocase xor(1-5) $b = /a{1,3}(b|c)+?/i $c = { 4? ~01 [2-4] (05|06 07) } condition: any of them }`,
		`import "pe" import "elf" rule a { condition: for any s in pe.sections : (s.name == ".text") or elf.number_of_sections > 1 }`,
		`rule a { condition: for all of them : ($ at entrypoint) }`, `rule a { strings: $a = "\x4`, "YARA", "include \"x\"", "/* ", `rule a { strings: $a = /[[:alpha/ condition: $a}`,
		`rule a { strings: $a = "abc" base64("!@#$%^&*(){}[].,|ABCDEFGHIJ\x09LMNOPQRSTUVWXYZabcdefghijklmnopqrstu") condition: 2 of ($a*) and @a[1] < 5 and uint16be(2) % 3 == 1 }`,
	} {
		f.Add(seed, "abc\x00MZ")
	}
	f.Fuzz(func(t *testing.T, text, data string) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		r, err := engine.Compile(ctx, yara.Source{Text: text})
		if errors.Is(err, yara.ErrBroken) {
			t.Fatalf("compile: %v", err)
		}
		if err != nil {
			return
		}
		defer func() { _ = r.Close(context.WithoutCancel(ctx)) }() // closing memory cannot fail in a way that matters here
		_, err = r.Scan(ctx, whole(data), yara.ScanOptions{Context: 3})
		if errors.Is(err, yara.ErrBroken) {
			t.Fatalf("scan: %v", err)
		}
	})
}

// FuzzData gives the modules that read file formats any bytes.
func FuzzData(f *testing.F) {
	for _, name := range []string{"testdata/tiny.elf", "testdata/tiny.pe"} {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[:len(data)/2])
	}
	f.Add([]byte("dex\n035\x00"))
	f.Add([]byte("\xcf\xfa\xed\xfe\x07\x00\x00\x01"))
	r := compile(f, `import "pe" import "elf" import "dotnet" import "macho" import "dex" import "hash" import "math"
rule a { strings: $a = /[a-z]{4,20}\.dll/ nocase $b = { 00 [1-300] 01 } condition: $a or #b > 3
 or pe.number_of_sections > 2 or elf.number_of_segments > 2 or dotnet.is_dotnet or pe.imphash() == "x" or elf.telfhash() == "x"
 or pe.rich_signature.version(1) > 0 or math.mean(0, filesize) < 3.0 or hash.md5(0, filesize) == "x" }`)
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := r.Scan(ctx, whole(string(data)), yara.ScanOptions{})
		if errors.Is(err, yara.ErrBroken) {
			t.Fatal(err)
		}
	})
}
