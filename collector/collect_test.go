package collector_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"raptorpack/artifacts"
	"raptorpack/collector"
	"raptorpack/container"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

const definition = `name: Linux.Test.Files
parameters:
  - {name: Glob}
sources:
  - name: Found
    query: SELECT Name, Size, upload(file=OSPath).sha256 AS Hash FROM glob(globs=Glob) WHERE NOT IsDir ORDER BY Name
  - name: None
    query: SELECT * FROM scope() WHERE FALSE
`

// collect runs collect() over a folder with two files.
func collect(t *testing.T, more string) (rows []string, output string, log *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"a.txt": "hello", "b.txt": strings.Repeat("b", 100_000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	repository := artifacts.NewRepository(nil)
	d, err := artifacts.Parse("a.yaml", []byte(definition))
	if err == nil {
		err = repository.Add(d)
	}
	if err != nil {
		t.Fatal(err)
	}
	engine, err := vql.NewEngine(endpoint.Functions(), append(endpoint.Plugins(), collector.Plugin))
	if err != nil {
		t.Fatal(err)
	}
	log, output = &bytes.Buffer{}, filepath.Join(t.TempDir(), "out.zip")
	scope := engine.NewScope(vql.SessionOptions{
		Artifacts: repository, Accessors: endpoint.Accessors(), Log: func(level, message string) { fmt.Fprintln(log, level, message) },
		Limits: vql.Limits{TempDir: t.TempDir()},
	})
	defer scope.Close()
	program, err := vql.Parse(fmt.Sprintf(`SELECT * FROM collect(artifacts='Linux.Test.Files', output='%s', args=dict(`+"`Linux.Test.Files`"+`=dict(Glob='%s/*')), %s)`, output, dir, more))
	if err != nil {
		t.Fatal(err)
	}
	err = scope.RunProgram(t.Context(), program, func(row *vql.Dict) error {
		rows = append(rows, string(vql.AppendJSON(nil, row)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows, output, log
}

func read(t *testing.T, name, password string) (*container.Reader, error) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return container.Open(t.Context(), bytes.NewReader(data), int64(len(data)), password)
}

func TestCollectPacksWhatItEmits(t *testing.T) {
	for _, password := range []string{"", "secret"} {
		rows, output, log := collect(t, fmt.Sprintf(`password='%s', metadata={ SELECT 'case 17' AS Case FROM scope() }, concurrency=2`, password))
		if len(rows) != 3 || !strings.Contains(rows[0], `"Name":"a.txt","Size":5`) || !strings.Contains(rows[0], `"_Source":"Linux.Test.Files/Found"`) ||
			!strings.Contains(rows[2], fmt.Sprintf(`"Container":%q,"Error":"","Uploads":2`, output)) {
			t.Fatalf("rows %s\nlog:\n%s", strings.Join(rows, "\n"), log)
		}
		r, err := read(t, output, password)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, result := range r.Results {
			names = append(names, result.Name)
		}
		slices.Sort(names)
		if strings.Join(names, " ") != "Linux.Test.Files/Found Linux.Test.Files/None" || r.Record.State != "completed" || r.Record.Rows["Linux.Test.Files/Found"] != 2 || len(r.Problems) != 0 {
			t.Errorf("results %v, record %+v", names, r.Record)
		}
		uploads := 0
		err = r.Uploads(t.Context(), func(u *container.Upload) error {
			uploads++
			in, err := r.File(u.Member)
			if err != nil {
				return err
			}
			n, err := io.Copy(io.Discard, in)
			if n != u.StoredSize || u.SHA256 == "" {
				t.Errorf("upload %+v has %d bytes", u, n)
			}
			return err
		})
		var info struct{ Hostname string }
		if json.Unmarshal(r.Info, &info); err != nil || uploads != 2 || info.Hostname == "" {
			t.Errorf("%d uploads, %v, info %s", uploads, err, r.Info)
		}
		if password != "" {
			if _, err := read(t, output, "wrong"); err == nil {
				t.Error("a wrong password opens it")
			}
		}
		unzips(t, output, password == "")
	}
}

// unzips has another program look at a zip; of a sealed one only its directory.
func unzips(t *testing.T, name string, plain bool) {
	t.Helper()
	if _, err := zip.OpenReader(name); err != nil {
		t.Fatal(err)
	}
	tool, err := exec.LookPath("unzip")
	if err != nil || !plain {
		return
	}
	if out, err := exec.Command(tool, "-t", name).CombinedOutput(); err != nil {
		t.Errorf("unzip -t: %v: %s", err, out)
	}
}

func TestCollectRefusesWhatItCannotDo(t *testing.T) {
	for more, want := range map[string]string{
		`cpu_limit=101`:               "cpu_limit at most 100",
		`ops_per_sec=-1`:              "expected 0 or more",
		`level=10`:                    "expected 1 to 9",
		`artifact_definitions='x: ['`: "artifact_definitions: 1:",
		`format='xml'`:                "expected csv",
		`concurrency=1000`:            "concurrency",
	} {
		rows, output, log := collect(t, more)
		if len(rows) != 0 || !strings.Contains(log.String(), want) {
			t.Errorf("%s: rows %v, log %s", more, rows, log)
		}
		if _, err := os.Stat(output); err == nil {
			t.Errorf("%s: there is an output", more)
		}
	}
}

func TestCollectTakesDefinitions(t *testing.T) {
	text := "name: Linux.Test.Files\nsources:\n- query: SELECT 'mine' AS Who FROM scope()\n"
	for name, more := range map[string]string{
		"a text":        fmt.Sprintf("artifact_definitions=%q", text),
		"a list":        fmt.Sprintf("artifact_definitions=[%q, dict(name='Linux.Other', sources=(dict(query='SELECT 1 FROM scope()'),))]", text),
		"a dict":        `artifact_definitions=dict(name='Linux.Test.Files', sources=(dict(query="SELECT 'mine' AS Who FROM scope()"),))`,
		"one that asks": `artifact_definitions=dict(name='Linux.Test.Files', sources=(dict(query="SELECT Who FROM Artifact.Linux.Other()"),)), report='x.html'`,
	} {
		if name == "one that asks" {
			more = strings.Replace(more, "artifact_definitions=", `artifact_definitions=[dict(name='Linux.Other', sources=(dict(query="SELECT 'mine' AS Who FROM scope()"),)), `, 1)
			more = strings.Replace(more, "), report", ")], report", 1)
		}
		rows, _, log := collect(t, more)
		if len(rows) != 2 || !strings.Contains(rows[0], `"Who":"mine"`) {
			t.Errorf("%s: rows %v\nlog:\n%s", name, rows, log)
		}
		if strings.Contains(more, "report") != strings.Contains(log.String(), "reports are not written") {
			t.Errorf("%s: log %s", name, log)
		}
	}
}

func TestCollectRemaps(t *testing.T) {
	image := t.TempDir()
	if err := os.MkdirAll(filepath.Join(image, "etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(image, "etc", "hostname"), []byte("dead"), 0o600); err != nil {
		t.Fatal(err)
	}
	remapping := fmt.Sprintf("remappings: [{type: mount, from: {accessor: file, prefix: %s}, on: {accessor: auto, prefix: /}}]", image)
	look := "artifact_definitions=dict(name='Linux.Test.Files', sources=(dict(query=\"SELECT read_file(filename='/etc/hostname') AS Host, upload(file='/etc/hostname').Size AS Size FROM scope()\"),))"
	rows, output, log := collect(t, fmt.Sprintf("%s, remapping='%s'", look, remapping))
	if len(rows) != 2 || !strings.Contains(rows[0], `"Host":"dead","Size":4`) {
		t.Errorf("rows %v\nlog:\n%s", rows, log)
	}
	if _, err := read(t, output, ""); err != nil {
		t.Error(err)
	}
	rows, _, log = collect(t, look+`, remapping='remappings: []'`)
	if len(rows) != 1 || !strings.Contains(rows[0], "remapping: remap: 0 remappings") {
		t.Errorf("rows %v\nlog:\n%s", rows, log)
	}
}

func TestCollectKeepsItsLimits(t *testing.T) {
	look := func(query string) string {
		return fmt.Sprintf("artifact_definitions=dict(name='Linux.Test.Files', sources=(dict(query=%q),))", query)
	}
	rows, _, log := collect(t, look("SELECT * FROM range(end=1000000000000) WHERE FALSE")+`, ops_per_sec=1000, timeout=1`)
	if len(rows) != 1 || !strings.Contains(rows[0], "timeout reached") {
		t.Errorf("rows %v\nlog:\n%s", rows, log)
	}
	rows, _, log = collect(t, look("SELECT sleep(time=30) AS S FROM scope()")+`, progress_timeout=0.05`)
	if len(rows) != 1 || !strings.Contains(rows[0], "no progress") {
		t.Errorf("rows %v\nlog:\n%s", rows, log)
	}
}

func TestCollectDeflatesAsHardAsItIsTold(t *testing.T) {
	size := func(more string) int64 {
		_, output, log := collect(t, more)
		info, err := os.Stat(output)
		if err != nil {
			t.Fatalf("%v\nlog:\n%s", err, log)
		}
		return info.Size()
	}
	if fast, hard := size("level=1"), size("level=9"); hard >= fast {
		t.Errorf("%d bytes at level 1, %d at 9", fast, hard)
	}
}
