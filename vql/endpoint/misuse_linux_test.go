package endpoint_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each primitive that reads files, processes or the machine gets what a host may
// have in the place of what it wants: nothing, a folder, noise. It gives a plain
// value and says why where the author should know; no call may end the query.
func TestReadersBearWhatTheyCannotRead(t *testing.T) {
	dir := t.TempDir()
	noise := make([]byte, 5000)
	chance := rand.New(rand.NewPCG(3, 4))
	for i := range noise {
		noise[i] = byte(chance.Uint32())
	}
	if err := os.WriteFile(filepath.Join(dir, "noise"), noise, 0o600); err != nil {
		t.Fatal(err)
	}
	const missing = "no such file or directory"
	for call, want := range map[string]struct{ value, log string }{
		"read_file(filename=Missing)":                           {`""`, missing},
		"read_file(filename=Dir)":                               {`""`, "not a regular file"},
		"len(list=read_file(filename=Noise, offset=-5))":        {"5000", ""},
		"read_file(filename=Noise, offset=99999)":               {`""`, ""},
		"read_file(filename='x', accessor='nosuch')":            {"null", "unknown accessor nosuch"},
		"stat(filename=Missing)":                                {"null", ""},
		"hash(path=Missing)":                                    {"null", missing},
		"hash(path=Dir)":                                        {"null", "not a regular file"},
		"rm(filename=Missing)":                                  {"false", missing},
		"copy(filename=Missing, dest=Dir + '/copy')":            {"null", missing},
		"copy(filename=Noise, dest=Missing + '/copy')":          {"null", missing},
		"magic(path=Missing, type='mime')":                      {"null", missing},
		"expand(path='$NO_SUCH_NAME/${')":                       {`"$NO_SUCH_NAME/${"`, ""},
		"parse_json(data='{')":                                  {"null", "unexpected end of JSON input"},
		"parse_json_array(data='{}')":                           {"null", "not an array"},
		"parse_xml(file=Noise)":                                 {"null", "parse_xml"},
		"parse_yaml(filename=Noise)":                            {"null", "parse_yaml"},
		"parse_yaml(filename=Missing)":                          {"null", missing},
		"parse_binary(filename=Noise, profile='{', struct='x')": {"null", "parse_binary"},
		"parse_string_with_regex(string='a', regex='(')":        {"null", "missing closing )"},
		"regex_replace(source='a', re='(', replace='')":         {"null", "missing closing )"},
		"regex_transform(source='a', map=dict(`(`='x'))":        {"null", "missing closing )"},
		"grok(grok='%{NOSUCH:x}', data='a')":                    {"null", "no pattern found for %{NOSUCH}"},
		"geoip(ip='192.0.2.1', db=Noise)":                       {"null", "invalid MaxMind DB file"},
		"mail(to='a@b', body='x').ErrorStatus":                  {`"server and from are needed, as arguments or in the configuration"`, "server and from are needed"},
		"process_tracker_get(id='nope')":                        {"null", ""},
		"process_tracker_callchain(id='')":                      {"[]", ""},
		"process_tracker_children(id='nope')":                   {"[]", ""},
		"process_tracker_tree(id='nope')":                       {"null", ""},
		"pskill(pid=0)":                                         {`"invalid process id"`, ""},
		"tempfile(extension='/../../x')":                        {"null", "invalid argument"},
		"path_split(path='a', path_type='nosuch')":              {"null", `unknown path type "nosuch"`},
		"path_join(components=[])":                              {`"/"`, ""},
		"dirname(path='/')":                                     {`"/"`, ""},
		"basename(path='')":                                     {`""`, ""},
		"remap(config='{')":                                     {"null", "did not find expected node content"},
		"upload_directory(file=Missing, output=Dir)":            {"null", missing},
		"upload(file=Noise)":                                    {"null", "takes no uploads"},
		"getpid(x=1)":                                           {"null", "Unexpected arg x"},
		"sysinfo(x=1)":                                          {"null", "Unexpected arg x"},
	} {
		t.Run(call, func(t *testing.T) {
			s := newSession(t, map[string]any{"Dir": dir, "Noise": dir + "/noise", "Missing": dir + "/missing"})
			s.want("SELECT "+call+" AS A FROM scope()", `{"A":`+want.value+`}`)
			if log := s.log(); !strings.Contains(log, want.log) || want.log == "" && log != "" {
				t.Errorf("log %q, want %q", log, want.log)
			}
		})
	}
}

func TestRowReadersBearWhatTheyCannotRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte("root:x:0:0\nada:x:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const missing = "no such file or directory"
	for call, log := range map[string]string{
		"read_file(filenames=Missing)":                                           missing,
		"stat(filename=Missing)":                                                 "",
		"glob(globs=Missing + '/**')":                                            "",
		"parse_lines(filename=Missing)":                                          missing,
		"parse_lines(filename=Dir)":                                              "not a regular file",
		"parse_csv(filename=Missing)":                                            missing,
		"parse_jsonl(filename=Missing)":                                          missing,
		"parse_jsonl(filename=Text)":                                             "skipped 2 lines that are no JSON",
		"parse_json_array(data='{}')":                                            "not an array",
		"parse_records_with_regex(file=Text, regex='(')":                         "missing closing )",
		"split_records(filenames=Text, regex='(')":                               "missing closing )",
		"split_records(filenames=Missing, regex=':')":                            missing,
		"parse_evtx(filename=Text)":                                              "not a Windows event log",
		"parse_journald(filename=Text)":                                          "not a journal file",
		"sqlite(file=Text, query='SELECT 1')":                                    "file is not a database",
		"sqlite(file=Missing, query='SELECT 1')":                                 missing,
		"leveldb(file=Dir)":                                                      "no tables and no logs",
		"unzip(filename=Text, output_directory=Dir)":                             "neither a zip nor a tar.gz",
		"write_csv(filename=Missing + '/x', query={SELECT 1 AS A FROM scope()})": missing,
		"yara(rules='rule {', files=Text)":                                       "rules do not compile",
		"proc_yara(pid=-1, rules='rule a { condition: true }')":                  "proc_yara",
		"pslist(pid=-1)":                                                         "",
		"execve(argv=['/no/such/program'])":                                      missing,
		"execve(argv=[])":                                                        "argv names no program",
		"netcat(address='/no/such/socket', type='unix')":                         "netcat",
		"profile(type='[')":                                                      "missing closing ]",
		"netstat(x=1)":                                                           "Unexpected arg x",
		"interfaces(x=1)":                                                        "Unexpected arg x",
		"connections(x=1)":                                                       "Unexpected arg x",
		"filesystems(x=1)":                                                       "Unexpected arg x",
		"info(x=1)":                                                              "Unexpected arg x",
		"profile_goroutines(verbose='perhaps', x=1)":                             "Unexpected arg x",
		"profile_memory(x=1)":                                                    "Unexpected arg x",
		"process_tracker_pslist(x=1)":                                            "Unexpected arg x",
		"efivariables(namespace='nosuch', name='nosuch', x=1)":                   "Unexpected arg x",
		"audit(x=1)":                                                             "Unexpected arg x",
		"mail(to='a@b', body='x', server='127.0.0.1')":                           "server and from are needed",
	} {
		t.Run(call, func(t *testing.T) {
			s := newSession(t, map[string]any{"Dir": dir, "Text": dir + "/text", "Missing": dir + "/missing"})
			rows := s.rows("SELECT * FROM " + call)
			if len(rows) > 0 && !strings.HasPrefix(call, "mail(") {
				t.Errorf("rows %v", rows)
			}
			if got := s.log(); !strings.Contains(got, log) || log == "" && got != "" {
				t.Errorf("log %q, want %q", got, log)
			}
		})
	}
}

// A host that shows EFI variables has one that says whether it booted securely or
// what it boots; one that shows none says so.
func TestEFIVariablesOfThisMachine(t *testing.T) {
	s := newSession(t, nil)
	rows := s.rows("SELECT Name FROM efivariables() LIMIT 1")
	if _, err := os.Stat("/sys/firmware/efi/efivars"); err != nil {
		if len(rows) != 0 {
			t.Errorf("rows %v", rows)
		}
		s.wantLog("shows no EFI variables")
		return
	}
	if entries, err := os.ReadDir("/sys/firmware/efi/efivars"); err == nil && len(entries) > 0 && len(rows) == 0 {
		t.Errorf("no rows; log %s", s.log())
	}
}
