//go:build nfslab

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// CheckWord is the first argument of the test program when it is to check a store
// inside a guest; the second is a list of Check as JSON.
const CheckWord = "check"

// findings stands before what a checker inside a guest found, so that nothing
// else is taken for it.
const findings = "FINDINGS\n"

// CheckInside is the test program's main function in a guest; it returns its exit
// code: 0 good, 1 findings, 2 no check was made.
func CheckInside(asked string) int {
	var checks []Check
	if err := json.Unmarshal([]byte(asked), &checks); err != nil {
		fmt.Println(err)
		return 2
	}
	var errs []error
	for _, check := range checks {
		if err := check.Run(context.Background()); err != nil {
			errs = append(errs, fmt.Errorf("flow %s: %w", check.Flow, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Print(findings, err, "\n")
		return 1
	}
	return 0
}

// Check runs the checker on the agents' machine, which has never written to the
// store: it sees what the NFS server holds. The checks say what to look for in each
// flow of this agent.
func (a *ClusterAgent) Check(checks ...Check) error {
	a.c.t.Helper()
	text, err := os.ReadFile(a.history())
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	history := a.c.tellGuests("history.jsonl", text)
	for i := range checks {
		checks[i].Store, checks[i].Client, checks[i].History = a.c.Store(), a.ID, history
	}
	asked, err := json.Marshal(checks)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	out, err := a.c.Inside(AgentMachine, self, CheckWord, string(asked))
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 && bytes.HasPrefix(out, []byte(findings)) {
		return fmt.Errorf("%s", bytes.TrimSpace(bytes.TrimPrefix(out, []byte(findings))))
	}
	if err != nil {
		a.c.t.Fatalf("the checker did not run: %v", err)
	}
	return nil
}

// LedgerReport is what `ledger verify` found.
type LedgerReport struct {
	Epochs int   `json:"epochs"`
	Last   int64 `json:"last_index"`
	Torn   int64 `json:"torn_bytes"`
	Beyond int64 `json:"beyond_bytes"`
}

// Verify runs the program's own checks of the store on the agents' machine.
func (c *Cluster) Verify() (LedgerReport, error) {
	c.t.Helper()
	var report LedgerReport
	store, err := c.verify("filestore", "check")
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, store)
	}
	ledger, broken := c.verify("ledger", "verify")
	if broken == nil {
		broken = json.Unmarshal(ledger, &report)
	}
	return report, errors.Join(err, broken)
}

func (c *Cluster) verify(words ...string) ([]byte, error) {
	words = append([]string{c.pack.binary}, words...)
	return c.Inside(AgentMachine, append(words, "--datastore", c.Store(), "--format", "jsonl", "--log-level", "error", "--quiet")...)
}
