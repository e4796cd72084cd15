package filestore_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"raptorpack/filestore"
	"raptorpack/ids"
)

var hostileNames = []string{
	"", ".", "..", "...", ".hidden", "a/b", "/", "//", `C:\Windows`, "nul\x00byte", "%", "%2E", "%41", "~", "a~3",
	"trailing.", "trailing ", " leading", "a\nb", "\xff\xfe", "\u202eexe.txt", "Straße", "日本語", "a.idx", "A.IDX", ".idx",
	"web-1-3.jsonl.gz", ".parts", "%other", "%long", "CON", "a", "A", strings.Repeat("x", 200), strings.Repeat("x", 201),
	strings.Repeat("é", 300), strings.Repeat(".", 500), strings.Repeat("x", 200) + ".", strings.Repeat("x", 200) + "..",
	strings.Repeat("/", 400), strings.Repeat("x", 200) + "/../../etc/passwd", strings.Repeat("x", 198) + ".idx", "%+", "x%+",
}

func TestEscapeIsReversibleAndStaysInFolder(t *testing.T) {
	seen := map[string]string{}
	for _, name := range hostileNames {
		checkEscaped(t, name)
		path := filestore.EscapeName(name)
		if other, taken := seen[path]; taken {
			t.Errorf("%q and %q are both %q", name, other, path)
		}
		seen[path] = name
	}
}

func checkEscaped(t *testing.T, name string) {
	t.Helper()
	path := filestore.EscapeName(name)
	if back, err := filestore.UnescapeName(path); err != nil || back != name {
		t.Errorf("%q becomes %q becomes %q, %v", name, path, back, err)
	}
	if !fs.ValidPath(path) || path == "." || !utf8.ValidString(path) {
		t.Errorf("%q becomes %q, which is no clean relative path", name, path)
	}
	for _, entry := range strings.Split(path, "/") {
		low := strings.ToLower(entry)
		bad := entry == "" || entry[0] == '.' || len(entry) > 203 || strings.ContainsAny(entry, "\\\x00~") ||
			strings.HasSuffix(low, ".idx") || strings.HasSuffix(low, ".jsonl.gz")
		if bad {
			t.Errorf("%q becomes %q with entry %q", name, path, entry)
		}
	}
}

func TestEscapeKeepsCommonNames(t *testing.T) {
	for _, name := range []string{"Linux.Sys.Pslist", "auto", "passwd", "Program Files (x86)", "Straße.txt", "$MFT", "a-b_c"} {
		if got := filestore.EscapeName(name); got != name {
			t.Errorf("%q becomes %q", name, got)
		}
	}
}

func TestUnescapeRefusesForeignNames(t *testing.T) {
	for _, path := range []string{"..", ".", "", "a/b", "%2", "%2e", "%41", "%zz", "a%+/", "%+/a", "a//b", "x~1", "a.idx"} {
		if name, err := filestore.UnescapeName(path); !errors.Is(err, filestore.ErrBadName) {
			t.Errorf("%q becomes %q, %v", path, name, err)
		}
	}
}

func FuzzEscape(f *testing.F) {
	for _, name := range hostileNames {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		checkEscaped(t, name)
		if back, err := filestore.UnescapeName(name); err == nil && filestore.EscapeName(back) != name {
			t.Errorf("%q is read as %q, which is written otherwise", name, back)
		}
	})
}

func FuzzLayout(f *testing.F) {
	for _, name := range hostileNames {
		f.Add(name, name)
	}
	c, fl, h := client(1), flow("X1"), hunt("Y2")
	f.Fuzz(func(t *testing.T, artifact, source string) {
		name := artifact + "/" + source
		day := time.Unix(1_700_000_000, 0)
		for _, set := range []filestore.Set{
			filestore.FlowResults(ids.RootOrg, c, fl, name), filestore.HuntResults(ids.RootOrg, h, name),
			filestore.Events(ids.RootOrg, name, day), filestore.EventLogs(ids.RootOrg, artifact, day),
		} {
			text := set.String()
			inside := strings.HasPrefix(text, "clients/") || strings.HasPrefix(text, "hunts/H.Y2/results/") ||
				strings.HasPrefix(text, "events/") || strings.HasPrefix(text, "eventlogs/")
			if !fs.ValidPath(text) || !inside || len(text) > 2000 || strings.Contains(text, "\x00") {
				t.Errorf("%q lies in %q", name, text)
			}
		}
	})
}

func TestLayoutFollowsTheTree(t *testing.T) {
	org, err := ids.ParseOrg("OA1B2")
	check(t, err)
	day := time.Date(2026, 3, 1, 23, 30, 0, 0, time.FixedZone("", -3600))
	c, f, h := client(0x7a84), flow("D4K8"), hunt("D4K9")
	c0, err := ids.ParseClient("C.7a840418cf635f31")
	check(t, err)
	got := []filestore.Set{
		filestore.FlowResults(ids.RootOrg, c0, f, "Linux.Sys.Pslist"),
		filestore.FlowResults(ids.RootOrg, c0, f, "Windows.Forensics/Shell Bags"),
		filestore.FlowLogs(org, c, f), filestore.HuntResults(org, h, "A/B"), filestore.HuntFlows(ids.RootOrg, h),
		filestore.HuntLogs(ids.RootOrg, h), filestore.Events(ids.RootOrg, "E/S", day), filestore.EventLogs(ids.RootOrg, "E", day),
		filestore.DeadLetters(ids.RootOrg), filestore.FlowLogs(ids.RootOrg, ids.Server, f),
	}
	want := []filestore.Set{
		"clients/7a/84/C.7a840418cf635f31/collections/F.D4K8/results/Linux.Sys.Pslist",
		"clients/7a/84/C.7a840418cf635f31/collections/F.D4K8/results/Windows.Forensics/Shell Bags",
		"orgs/OA1B2/clients/00/00/C.0000000000007a84/collections/F.D4K8/logs", "orgs/OA1B2/hunts/H.D4K9/results/A/B",
		"hunts/H.D4K9/flows", "hunts/H.D4K9/logs", "events/E/S/2026-03-02", "eventlogs/E/2026-03-02",
		"deadletters", "clients/00/00/server/collections/F.D4K8/logs",
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("set %d is %s, want %s", i, got[i], want[i])
		}
	}
	seen := map[filestore.Set]string{}
	for _, a := range hostileNames {
		for _, b := range hostileNames {
			name := a + "/" + b
			set := filestore.FlowResults(ids.RootOrg, c, f, name)
			if other, taken := seen[set]; taken && other != name {
				t.Errorf("%q and %q share %s", name, other, set)
			}
			seen[set] = name
		}
	}
}
