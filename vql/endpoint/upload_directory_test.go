package endpoint

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSafePartsNeverLeaveTheirFolder(t *testing.T) {
	cases := map[string][]string{
		"..":           {"%2E%2E"},
		".":            {"%2E"},
		"":             nil,
		"a/../b":       {"a%2F..%2Fb"},
		"\x00\n":       {"%00%0A"},
		"ordinary.txt": {"ordinary.txt"},
	}
	for part, want := range cases {
		if got := safeParts([]string{part}); !slices.Equal(got, want) {
			t.Errorf("%q becomes %q, want %q", part, got, want)
		}
	}
}

func FuzzSafeParts(f *testing.F) {
	for _, seed := range []string{"..", "a/b", `C:\x`, "NUL", strings.Repeat("ü", 200), "x. ", "%2F"} {
		f.Add(seed, "x")
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		parts := safeParts([]string{one, two})
		for _, part := range parts {
			if part == "" || len(part) > maxPart+1 || strings.ContainsAny(part, "/\\\x00") || part == "." || part == ".." {
				t.Errorf("%q gives %q", []string{one, two}, parts)
			}
		}
		if len(parts) > 0 && !filepath.IsLocal(filepath.Join(parts...)) {
			t.Errorf("%q leads out: %q", []string{one, two}, parts)
		}
	})
}
