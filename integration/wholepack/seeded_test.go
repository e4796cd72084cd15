//go:build !seeded

package wholepack_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"raptorpack/internal/seeded"
)

// schedules name for each guard the story that provokes what it guards against, and
// the promise that is broken without it.
var schedules = map[string]struct{ story, rule string }{
	"lease":       {"TestZombieMasterChangesNothing", "missing"},
	"seal":        {"TestRecordsBetweenSealAndReplayChangeNothing", "missing"},
	"duplicates":  {"TestRepeatedFactsAreTakenOnce", "twice"},
	"incarnation": {"TestLapsedNodeAcknowledgesNothing", "rows"},
	"sync":        {"TestPowerCutsLoseNothingThatWasAcknowledged", "missing"},
}

// tries is how often a story without its guard may go otherwise by chance: who is first
// decides in some whether the guard was needed.
const tries = 3

// A checker that never complains proves nothing. So each guard of the program is
// taken out once, and the story that relies on it has to fail, by the right rule.
func TestMissingGuardsAreNoticed(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "seeded.test")
	if out, err := exec.Command("go", "test", "-tags", "seeded", "-c", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, guard := range seeded.Guards {
		t.Run(guard, func(t *testing.T) {
			schedule := schedules[guard]
			var text, found string
			var err error
			noticed := false
			for try := 0; try < tries && !noticed; try++ {
				cmd := exec.Command(binary, "-test.v", "-test.run", "^"+schedule.story+"$")
				cmd.Env = append(os.Environ(), "RAPTORPACK_SEEDED="+guard)
				var out []byte
				out, err = cmd.CombinedOutput()
				text = string(out)
				_, found, noticed = strings.Cut(text, "violation "+schedule.rule+":")
			}
			if !noticed {
				t.Fatalf("without the guard %s ends without a violation of %s (%v):\n%.8000s", schedule.story, schedule.rule, err, text)
			}
			line, _, _ := strings.Cut(found, "\n")
			t.Logf("noticed:%s", line)
		})
	}
}
