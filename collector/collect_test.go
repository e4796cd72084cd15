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
		`remapping='x'`:    "not available",
		`format='xml'`:     "expected csv",
		`concurrency=1000`: "concurrency",
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
