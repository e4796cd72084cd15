package yara_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"raptorpack/vql/yara"
)

// engine is one for all tests: translating the module takes most of the time.
var engine = yara.New(yara.Options{})

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func compile(t testing.TB, text string, vars ...yara.Var) *yara.Rules {
	t.Helper()
	r, err := engine.Compile(t.Context(), yara.Source{Text: text, Vars: vars})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return r
}

func whole(data string) yara.Target {
	return yara.Target{
		Reader: strings.NewReader(data), Size: int64(len(data)),
		Blocks: []yara.Block{{Size: int64(len(data))}},
	}
}

// matches writes down what a scan finds, a line for each rule.
func matches(t testing.TB, r *yara.Rules, target yara.Target, o yara.ScanOptions) []string {
	t.Helper()
	found, err := r.Scan(t.Context(), target, o)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range found {
		line := m.Namespace + ":" + m.Rule
		if len(m.Tags) > 0 {
			line += fmt.Sprint(" ", m.Tags)
		}
		for _, meta := range m.Meta {
			line += fmt.Sprintf(" %s=%#v", meta.Name, meta.Value)
		}
		for _, h := range m.Hits {
			line += fmt.Sprintf(" %s@%d+%d=%q", h.Name, h.Offset, h.Length, h.Data)
		}
		out = append(out, line)
	}
	return out
}

func want(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestScanTellsRulesMetasAndHits(t *testing.T) {
	r := compile(t, `import "console"
rule found : first second {
  meta: text = "a b" number = -5 truth = true
  strings:
    $text = "hello" nocase
    $hex = { 01 02 [0-5] 03 }
    $ = /w[ou]r+/
    $hidden = "say" private
  condition: all of them and console.log("seen")
}
rule bare { condition: filesize == 25 }
rule absent { strings: $a = "absent" condition: $a }
private rule quiet { condition: true }`)
	var notes []string
	got := matches(t, r, whole("say HELLO \x01\x02zz\x03 wor hello"), yara.ScanOptions{
		Context: 2, Note: func(m string) { notes = append(notes, m) },
	})
	want(t, got,
		`default:found [first second] text="a b" number=-5 truth=true $text@4+5="y HELLO \x01" $text@20+5="r hello" $hex@10+5="O \x01\x02zz\x03 w" $@16+3="\x03 wor h"`,
		`default:bare`)
	want(t, notes, "seen")
}

func TestHitsAreBounded(t *testing.T) {
	r := compile(t, `rule a { strings: $a = "x" $b = "y" condition: #a == 300000 or #a == 100000 and $b }`)
	data := strings.Repeat("x", 300_000) + "y"
	var notes []string
	got := matches(t, r, whole(data), yara.ScanOptions{Hits: 2, Note: func(m string) { notes = append(notes, m) }})
	want(t, got, `default:a $a@0+1="x" $a@1+1="x"`)
	want(t, notes, "rule a: $a is found too often: the hits from number 100001 on are left out")
}

func TestVariablesAndNamespaces(t *testing.T) {
	text := `rule v { condition: i == 7 and f > 2.5 and b and s contains "ell" }`
	vars := []yara.Var{{"i", int64(7)}, {"f", 2.75}, {"b", true}, {"s", "hello"}}
	want(t, matches(t, compile(t, text, vars...), whole("-"), yara.ScanOptions{}), "default:v")

	r, err := engine.Compile(t.Context(), yara.Source{Text: "rule n { condition: true }", Namespace: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	want(t, matches(t, r, whole("-"), yara.ScanOptions{}), "mine:n")
	for _, bad := range []yara.Var{{"i", []int{1}}, {"i\x00", true}} {
		if _, err := engine.Compile(t.Context(), yara.Source{Text: text, Vars: []yara.Var{bad}}); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

func TestErrorsOfRulesHaveLines(t *testing.T) {
	for text, want := range map[string]string{
		"rule a {\n condition: foo\n}":                                  `line 2: undefined identifier "foo"`,
		"rule a { condition: true }\nrule a { condition: true }":        `line 2: duplicated identifier "a"`,
		"rule a { strings: $a = /(/ condition: $a }":                    "line 1: invalid regular expression",
		"rule a { strings: $a = { 0 } condition: $a }":                  "line 1: invalid hex string",
		"include \"/etc/passwd\"":                                       "line 1: includes are disabled",
		"import \"cuckoo\"\nrule a { condition: true }":                 `line 1: unknown module "cuckoo"`,
		"rule a { condition: \"" + strings.Repeat("x", 10_000) + "\" }": "line 1: ",
		"rule":                        "syntax error",
		"\x00":                        "line 1: ",
		"YARA\x15\x00\x00\x00garbage": "",
	} {
		_, err := engine.Compile(t.Context(), yara.Source{Text: text})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
		var wrong *yara.CompileError
		if want != "" && !errors.As(err, &wrong) {
			t.Errorf("%.40q: %v is no CompileError", text, err)
		}
	}
	r := compile(t, `rule a { strings: $a = /x.*/ condition: $a }`)
	if len(r.Warnings) == 0 || !r.Warnings[0].Warning {
		t.Errorf("warnings: %v", r.Warnings)
	}
}

// The blocks of a file overlap, and what lies in both is one hit.
func TestStringsAreFoundAcrossOverlappingBlocks(t *testing.T) {
	data := strings.Repeat("-", 995) + "border" + strings.Repeat("-", 1000) + "end"
	target := whole(data)
	target.Blocks = []yara.Block{{0, 1000}, {990, 1000}, {1980, 24}}
	r := compile(t, `rule a { strings: $b = "border" $e = "end" condition: $b and $e and filesize == 2004 and #b == 1 and uint8(996) == 0x6f }`)
	want(t, matches(t, r, target, yara.ScanOptions{Context: 1}), `default:a $b@995+6="-border-" $e@2001+3="-end"`)
}

// Parts of a string with a long gap are not put together from two blocks.
func TestPartsOfDifferentBlocksAreNotOneString(t *testing.T) {
	r := compile(t, `rule a { strings: $a = { 41 41 41 41 [300-400] 42 42 42 42 } condition: $a }`)
	data := "AAAA" + strings.Repeat("-", 5000) + strings.Repeat("-", 350) + "BBBB"
	target := whole(data)
	target.Blocks = []yara.Block{{0, 2000}, {5000, 358}}
	want(t, matches(t, r, target, yara.ScanOptions{}))
}

func TestProcessMemoryHasNoFileSize(t *testing.T) {
	r := compile(t, `rule a { strings: $a = "secret" condition: $a at 0x7f0000001002 and not defined filesize }`)
	memory := offsetReader{0x7f0000001000: "--secret--"}
	got := matches(t, r, yara.Target{Reader: memory, Size: -1, Blocks: []yara.Block{{0x1000, 100}, {0x7f0000001000, 10}}}, yara.ScanOptions{})
	want(t, got, fmt.Sprintf(`default:a $a@%d+6="secret"`, 0x7f0000001002))
}

// offsetReader holds texts at addresses; all else cannot be read.
type offsetReader map[int64]string

func (r offsetReader) ReadAt(p []byte, offset int64) (int, error) {
	for at, text := range r {
		if offset >= at && offset < at+int64(len(text)) {
			n := copy(p, text[offset-at:])
			return n, nil
		}
	}
	return 0, io.EOF
}

var errDisk = errors.New("bad sector")

type badDisk struct{ io.ReaderAt }

func (d badDisk) ReadAt(p []byte, offset int64) (int, error) {
	if offset == 100 {
		return 0, errDisk
	}
	return d.ReaderAt.ReadAt(p, offset)
}

func TestABlockThatCannotBeReadIsToldAfterTheOthers(t *testing.T) {
	r := compile(t, `rule a { strings: $a = "x" condition: $a }`)
	target := yara.Target{Reader: badDisk{strings.NewReader(strings.Repeat("x", 300))}, Size: 300, Blocks: []yara.Block{{0, 100}, {100, 100}, {200, 100}}}
	found, err := r.Scan(t.Context(), target, yara.ScanOptions{})
	if !errors.Is(err, errDisk) || len(found) != 1 || len(found[0].Hits) != 200 {
		t.Errorf("%d matches, %v", len(found), err)
	}
}

func TestHitsOfAllRulesAreCounted(t *testing.T) {
	r := compile(t, `rule a { strings: $x = "x" condition: $x } rule b { condition: true } rule c { strings: $x = "x" condition: $x }`)
	for hits, rules := range map[int]int{1: 1, 3: 1, 4: 2, 5: 3, 0: 3} {
		if found, err := r.Scan(t.Context(), whole("xxx"), yara.ScanOptions{Hits: hits}); err != nil || len(found) != rules {
			t.Errorf("%d hits: %d rules, %v", hits, len(found), err)
		}
	}
}

func TestModulesReadRealFiles(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	data = data[:min(len(data), 1<<20)]
	r := compile(t, `import "elf" import "pe" import "hash" import "math" import "time" import "string" import "dotnet" import "macho" import "dex"
rule elf { condition: elf.type == elf.ET_EXEC or elf.type == elf.ET_DYN }
rule pe { condition: pe.is_pe }
rule digests { condition:
  hash.md5("hello") == "5d41402abc4b2a76b9719d911017c592" and
  hash.sha1("hello") == "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d" and
  hash.sha256("hello") == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" and
  hash.crc32("hello") == 0x3610a686 and hash.md5(0, filesize) != "" and
  math.entropy("aaaa") == 0.0 and time.now() > 1700000000 and string.to_int("42") == 42 }`)
	for _, cut := range []int{len(data), 64, 20, 1, 0} {
		got := matches(t, r, whole(string(data[:cut])), yara.ScanOptions{})
		if cut == len(data) {
			want(t, got, "default:elf", "default:digests")
		}
	}
}

func TestManyScansAtOnce(t *testing.T) {
	r := compile(t, `rule a { strings: $a = /n[0-9]+n/ condition: $a }`)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			text := fmt.Sprintf("n%dn", i)
			for range 8 {
				want(t, matches(t, r, whole(text), yara.ScanOptions{}), fmt.Sprintf("default:a $a@0+%d=%q", len(text), text))
			}
		})
	}
	wg.Wait()
}

func TestClosedRulesStillScan(t *testing.T) {
	r := compile(t, "rule a { condition: true }")
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, matches(t, r, whole("-"), yara.ScanOptions{}), "default:a")
}

func TestAClosedEngineSaysSo(t *testing.T) {
	e := yara.New(yara.Options{})
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Compile(t.Context(), yara.Source{Text: "rule a { condition: true }"}); !errors.Is(err, yara.ErrClosed) {
		t.Error(err)
	}
}

func TestRulesOfYaracCanBeLoaded(t *testing.T) {
	code, err := os.ReadFile("testdata/rules.yarac")
	if err != nil {
		t.Fatal(err)
	}
	r := compile(t, string(code), yara.Var{Name: "level", Value: int64(3)})
	want(t, matches(t, r, whole("a secret word"), yara.ScanOptions{}), `default:compiled [x] author="me" $a@2+6="secret"`)
	for _, cut := range []int{8, 100, len(code) / 2, len(code) - 1} {
		if _, err := engine.Compile(t.Context(), yara.Source{Text: string(code[:cut])}); err == nil {
			t.Errorf("rules cut after %d bytes were taken", cut)
		}
	}
	broken := bytes.Clone(code)
	for i := 64; i < len(broken); i += 7 {
		broken[i] ^= 0x55
	}
	r, err = engine.Compile(t.Context(), yara.Source{Text: string(broken)})
	if err == nil {
		_, _ = r.Scan(t.Context(), whole("a secret word"), yara.ScanOptions{}) // any answer but the end of the process
	}
}
