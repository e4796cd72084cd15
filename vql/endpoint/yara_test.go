package endpoint_test

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"raptorpack/internal/testkit"
	"raptorpack/vql"
)

const helloRule = `rule found : one two { meta: author = "me" level = 3 strings: $a = "hello" nocase $b = { 77 6f 72 ?? 64 } condition: any of them }`

func TestYaraGivesARowForEachHit(t *testing.T) {
	root := tree(t, map[string]string{"a": "say Hello world", "b": "nothing"})
	s := newSession(t, map[string]any{"Root": root, "R": helloRule})
	s.want(`SELECT Rule, Meta, Tags, String, File.Name AS Name, File.Size AS Size, FileName =~ '/a$' AS OK
	        FROM yara(rules=R, files=(Root + '/a', Root + '/b'), number=10, context=2)`,
		`{"Rule":"found","Meta":{"author":"me","level":3},"Tags":["one","two"],"String":{"Name":"$a","Offset":4,"HexData":["00000000  79 20 48 65 6c 6c 6f 20  77                       |y Hello w|"],"Data":"y Hello w"},"Name":"a","Size":15,"OK":true}`,
		`{"Rule":"found","Meta":{"author":"me","level":3},"Tags":["one","two"],"String":{"Name":"$b","Offset":10,"HexData":["00000000  6f 20 77 6f 72 6c 64                              |o world|"],"Data":"o world"},"Name":"a","Size":15,"OK":true}`)
	s.want(`SELECT String.Offset AS O FROM yara(rules=R, files=Root + '/a')`, `{"O":4}`)
}

func TestYaraRulesWithoutStrings(t *testing.T) {
	root := tree(t, map[string]string{"a": "12345", "b": "1234567", "empty": ""})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT Rule, String, File.Name AS Name FROM yara(files=(Root + '/a', Root + '/b', Root + '/empty'), vars=dict(most=6, word='x', yes=TRUE, half=0.5),
	        rules='rule small { condition: filesize < most and word == "x" and yes and half < 1.0 } rule no { strings: $x = "absent" condition: not $x and filesize == 7 }')`,
		`{"Rule":"small","String":null,"Name":"a"}`, `{"Rule":"no","String":null,"Name":"b"}`, `{"Rule":"small","String":null,"Name":"empty"}`)
}

func TestYaraShortForm(t *testing.T) {
	root := tree(t, map[string]string{"a": "x\"\\\n H\x00i\x00 hi, hi: there"})
	s := newSession(t, map[string]any{"Root": root, "Odd": ":x\"\\\n"})
	s.want(`SELECT String.Offset AS O FROM yara(rules='nocase wide:hi', files=Root + '/a', number=9)`, `{"O":5}`)
	s.want(`SELECT String.Offset AS O FROM yara(rules='ascii wide nocase:hi', files=Root + '/a', number=9)`, `{"O":5}`, `{"O":10}`, `{"O":14}`)
	s.want(`SELECT String.Offset AS O FROM yara(rules='ascii fullword:hi: there', files=Root + '/a', number=9)`, `{"O":14}`)
	s.want(`SELECT String.Offset AS O FROM yara(rules=Odd, files=Root + '/a', number=9)`, `{"O":0}`)
}

// A string is found wherever it stands, whatever the blocks are.
func TestYaraFindsAcrossBlocks(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 8000) // 125 KiB
	for _, at := range []int{0, 16380, 32760, 49150, 65530, 100_000, 127_990} {
		data := long[:at] + "NEEDLE.IN.HAY" + long[at:]
		root := tree(t, map[string]string{"a": data})
		s := newSession(t, map[string]any{"Root": root, "R": `rule a { strings: $a = /NEEDLE\.IN\.[HW]AY/ condition: $a and #a == 1 and filesize == ` + fmt.Sprint(len(data)) + ` }`})
		want := fmt.Sprintf(`{"O":%d,"D":"NEEDLE.IN.HAY"}`, at)
		for _, extra := range []string{"", ", blocksize=1", ", blocksize=70000", ", blocksize=1000000", ", force_buffers=TRUE"} {
			s.want(`SELECT String.Offset AS O, String.Data AS D FROM yara(rules=R, files=Root + '/a', number=5`+extra+`)`, want)
		}
	}
}

func TestYaraStartAndEnd(t *testing.T) {
	root := tree(t, map[string]string{"a": "x....x....x"})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT String.Offset AS O FROM yara(rules=':x', files=Root + '/a', number=9, start=1, end=10)`, `{"O":5}`)
	s.want(`SELECT String.Offset AS O FROM yara(rules=':x', files=Root + '/a', number=9, start=10)`, `{"O":10}`)
	s.want(`SELECT String.Offset AS O FROM yara(rules=':x', files=Root + '/a', number=9, start=100)`)
}

func TestYaraReadsThroughAccessors(t *testing.T) {
	root := t.TempDir()
	big := strings.Repeat("filler ", 200_000) + "treasure" // 1.4 MB
	var zipped, packed bytes.Buffer
	archive := zip.NewWriter(&zipped)
	member, err := archive.Create("dir/member.txt")
	if err != nil {
		t.Fatal(err)
	}
	packer := gzip.NewWriter(&packed)
	_, err = member.Write([]byte(big))
	_, err2 := packer.Write([]byte(big))
	err = errors.Join(err, err2, archive.Close(), packer.Close(),
		os.WriteFile(filepath.Join(root, "a.zip"), zipped.Bytes(), 0o644), os.WriteFile(filepath.Join(root, "a.gz"), packed.Bytes(), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(t, map[string]any{"Root": root})
	want := `{"O":1400000}`
	s.want(`SELECT String.Offset AS O FROM yara(rules=':treasure', files=pathspec(DelegatePath=Root + '/a.zip', Path='dir/member.txt'), accessor='zip')`, want)
	s.want(`SELECT String.Offset AS O FROM yara(rules=':treasure', files=pathspec(DelegatePath=Root + '/a.zip', Path='dir/member.txt'), accessor='zip', force_buffers=TRUE)`, want)
	s.want(`SELECT String.Offset AS O FROM yara(rules=':treasure', files=Root + '/a.gz', accessor='gzip')`, want)
	s.want(`SELECT String.Offset AS O FROM yara(rules=':word', files='a word', accessor='data')`, `{"O":2}`)
	s.want(`SELECT String.Offset AS O FROM yara(rules=':word', files=pathspec(DelegateAccessor='data', DelegatePath='word....word', Path='[{"Offset":8,"Length":4}]', accessor='sparse'), accessor='sparse', number=9)`, `{"O":8}`)
	if left, _ := filepath.Glob(filepath.Join(s.scope.Session().Limits.TempDir, "*")); len(left) > 0 {
		t.Errorf("temporary files were left: %v", left)
	}
}

func TestYaraReadsFilesWithoutASize(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("/proc is needed")
	}
	s := newSession(t, nil)
	s.want(`SELECT String.Offset AS O FROM yara(rules=':Linux version', files='/proc/version')`, `{"O":0}`)
}

func TestYaraSaysWhatIsWrong(t *testing.T) {
	root := tree(t, map[string]string{"a": "text"})
	for query, log := range map[string]string{
		`yara(rules='rule a { condition: nothing }', files=Root + '/a')`:                              `yara: rules do not compile: line 1: undefined identifier "nothing"`,
		`yara(rules=':x', files=Root + '/gone')`:                                                      "gone: no such file",
		`yara(rules=':x', files=Root)`:                                                                "not a regular file",
		`yara(files=Root + '/a')`:                                                                     "rules are needed",
		`yara(key='k', files=Root + '/a')`:                                                            "rules are needed",
		`yara(rules=':x', files=Root + '/a', accessor='nosuch')`:                                      "unknown accessor",
		`yara(rules='YARAgarbage', files=Root + '/a')`:                                                "compiled rules are of another version",
		`yara(rules='import "console" rule a { condition: console.log("said") }', files=Root + '/a')`: "said",
	} {
		s := newSession(t, map[string]any{"Root": root})
		s.rows(`SELECT Rule FROM ` + query)
		s.wantLog(log)
	}
}

func TestYaraKeyFindsRulesAgain(t *testing.T) {
	root := tree(t, map[string]string{"a": "one two"})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT String.Offset AS O FROM yara(rules=':one', key='k', files=Root + '/a')`, `{"O":0}`)
	s.want(`SELECT String.Offset AS O FROM yara(key='k', files=Root + '/a')`, `{"O":0}`)
	s.want(`SELECT String.Offset AS O FROM yara(rules=':two', key='k', files=Root + '/a')`, `{"O":4}`)
	s.want(`SELECT String.Offset AS O FROM yara(key='k', files=Root + '/a')`, `{"O":4}`)
	s.want(`SELECT count() AS N FROM foreach(row={ SELECT * FROM range(end=20) }, query={ SELECT * FROM yara(rules=format(format=':one//%v', args=_value), files=Root + '/a') }) GROUP BY 1`)
	s.want(`SELECT String.Offset AS O FROM yara(rules=':one', key='k', files=Root + '/a')`, `{"O":0}`)
}

func TestYaraFromManyWorkers(t *testing.T) {
	files := map[string]string{}
	for i := range 60 {
		files[fmt.Sprintf("f%02d", i)] = fmt.Sprintf("word %d", i)
	}
	s := newSession(t, map[string]any{"Root": tree(t, files)})
	rows := s.rows(`SELECT * FROM foreach(workers=8, row={ SELECT OSPath FROM glob(globs=Root + '/*') },
	  query={ SELECT FileName FROM yara(rules='rule a { strings: $a = /word [0-9]+/ condition: $a }', files=OSPath) })`)
	if len(rows) != 60 {
		t.Errorf("%d rows\n%s", len(rows), s.log())
	}
}

// Each row of a scan is the work of another one, more of them than may run at once.
func TestYaraWithinYara(t *testing.T) {
	files := map[string]string{}
	for i := range 12 {
		files[fmt.Sprintf("f%02d", i)] = "outer inner outer outer"
	}
	s := newSession(t, map[string]any{"Root": tree(t, files)})
	rows := s.rows(`SELECT * FROM foreach(workers=12, row={ SELECT OSPath FROM glob(globs=Root + '/*') },
	  query={ SELECT { SELECT String.Offset AS O FROM yara(rules=':inner', files=FileName) } AS Inner FROM yara(rules=':outer', files=OSPath, number=9) })`)
	if len(rows) != 36 || rows[0] != `{"Inner":6}` {
		t.Errorf("%v\n%s", rows, s.log())
	}
}

func TestYaraEndsWithTheQuery(t *testing.T) {
	root := tree(t, map[string]string{"a": strings.Repeat("a", 4<<20)})
	s := newSession(t, map[string]any{"Root": root})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_ = s.each(ctx, `SELECT * FROM yara(rules='rule a { strings: $a = /a+a+a+a+a+a+a+b/ condition: $a }', files=Root + '/a')`,
		func(*vql.Dict) error { return nil }) // that it comes back is what counts
	s.want(`SELECT Rule FROM yara(rules=':aa', files=Root + '/a')`, `{"Rule":"X"}`)
}

// The process is a small one that waits for its input, with a word among its
// arguments.
func TestProcYaraFindsWhatAProcessHolds(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("/proc is needed")
	}
	child := exec.CommandContext(t.Context(), "cat", "-", "/what-in-thevenang")
	input, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = input.Close() // which ends it
		_ = child.Wait()  // with a complaint about the second argument
	}()
	s := newSession(t, map[string]any{"Pid": child.Process.Pid})
	const query = `SELECT Rule, String.Data AS D, String.Offset > 4096 AS High, FileName =~ '^/[0-9]+$' AS OK, File.Name = str(str=Pid) AS Same
	  FROM proc_yara(rules='rule m { strings: $a = /what-in-theven[a]ng/ condition: $a and not defined filesize }', pid=Pid)`
	var rows []string
	testkit.Eventually(t, "the word in the process", func() (any, bool) {
		rows = s.rows(query) // it may not have begun to be cat yet
		return rows, len(rows) > 0
	})
	if want := `{"Rule":"m","D":"what-in-thevenang","High":true,"OK":true,"Same":true}`; rows[0] != want {
		t.Errorf("got %v\nwant %s\n%s", rows, want, s.log())
	}
	s.want(`SELECT * FROM proc_yara(rules=':x', pid=999999999)`)
	s.wantLog("proc_yara")
}
