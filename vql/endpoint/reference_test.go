package endpoint_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// Each line holds a sentence of the reference that once was not kept.
func TestSentencesOfTheReference(t *testing.T) {
	root := tree(t, map[string]string{"a.txt": "hello\n", "b.txt": "other\n"})
	s := newSession(t, map[string]any{"Root": root})
	// parse_records_with_regex: FullPath, and one column for each group.
	s.want(`SELECT * FROM parse_records_with_regex(file=Root + '/a.txt', regex='(?P<First>h)(e)')`,
		fmt.Sprintf(`{"FullPath":%q,"First":"h","g2":"e"}`, filepath.Join(root, "a.txt")))
	// parse_lines: buffer_size limits a line.
	s.want(`SELECT * FROM parse_lines(accessor='data', filename='abcdefg', buffer_size=3)`, `{"Line":"abc"}`, `{"Line":"def"}`, `{"Line":"g"}`)
	// sparse: the path is a JSON list, also in a pathspec.
	s.want(`SELECT read_file(accessor='sparse', filename=pathspec(DelegateAccessor='data', DelegatePath='0123456789',
	          Path=serialize(item=[dict(Offset=0, Length=2), dict(Offset=5, Length=1)]))) AS A FROM scope()`, `{"A":"01\u0000\u0000\u00005"}`)
	// A query is the list of its rows: their one column is the path.
	s.want(`SELECT Data FROM read_file(filenames={SELECT OSPath FROM glob(root=Root, globs='*.txt')})`, `{"Data":"hello\n"}`, `{"Data":"other\n"}`)
	s.want(`SELECT read_file(filename=dict(Name='x', Size=5)) AS A FROM scope()`, `{"A":null}`)
	s.wantLog("Expecting a path arg type, not")
}

func TestWriteCSVWritesContainersAsJSON(t *testing.T) {
	name := filepath.Join(t.TempDir(), "out.csv")
	s := newSession(t, map[string]any{"Name": name})
	s.rows(`SELECT * FROM write_csv(filename=Name, query={SELECT (1, 2) AS A, dict(b=1) AS B, NULL AS C, 'x' AS D FROM scope()})`)
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if want := "A,B,C,D\n\"[1,2]\",\"{\"\"b\"\":1}\",,x\n"; string(got) != want {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestCopyKeepsAFileThatIsItsOwnDestination(t *testing.T) {
	root := tree(t, map[string]string{"a": "content", "link": "->a"})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT copy(filename=Root + '/a', dest=Root + '/a') AS A, copy(filename=Root + '/a', dest=Root + '/link', append=TRUE) AS B FROM scope()`,
		`{"A":null,"B":null}`)
	s.wantLog("the destination is the file itself")
	if got, err := os.ReadFile(filepath.Join(root, "a")); err != nil || string(got) != "content" {
		t.Errorf("the file holds %q, %v", got, err)
	}
}

func TestTrackerEntriesListTheirChildren(t *testing.T) {
	s := newSession(t, map[string]any{"Me": strconv.Itoa(os.Getpid()), "Parent": strconv.Itoa(os.Getppid())})
	s.want(`SELECT Me IN process_tracker_get(id=Parent).Children AS A, Me IN process_tracker_callchain(id=Me)[1].Children AS B,
	               Me IN filter(list=process_tracker_all(), condition='x=>x.Id = Parent')[0].Children AS C, process_tracker_get(id=Me).Children AS D FROM scope()`,
		`{"A":true,"B":true,"C":true,"D":[]}`)
}
