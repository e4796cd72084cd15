package history

import (
	"context"
	"fmt"

	"raptorpack/filestore"
	"raptorpack/integration"
)

// Flow is a collection of numbered rows, {"N":0} and so on, that was acknowledged to
// an operator.
type Flow struct {
	Client string
	ID     string
	Result string // result name
	Rows   int64  // that it produces
	State  string // as the pack told last
	File   string // the agent's file of acknowledgements
}

// completed is the state of a flow of which everything is there.
const completed = "completed"

// CheckRows compares flows with what their agents were told and with what must have
// come of them. Of one that never ended, only what was acknowledged is looked for;
// that it did not is a violation of its own.
func CheckRows(ctx context.Context, store *filestore.Store, flows []Flow) ([]Violation, error) {
	reader, err := integration.NewReader(ctx, store)
	if err != nil {
		return nil, err
	}
	var found []Violation
	for _, f := range flows {
		rows := f.Rows
		if f.State != completed {
			found = append(found, Violation{"unfinished", fmt.Sprintf("flow %s of %s with %d rows is %s in the end", f.ID, f.Client, f.Rows, f.State)})
			rows = -1
		}
		check := integration.Check{Client: f.Client, Flow: f.ID, Result: f.Result, Rows: rows, History: f.File}
		if err := check.RunOn(ctx, reader); err != nil {
			found = append(found, Violation{"rows", fmt.Sprintf("flow %s of %s, %s: %v", f.ID, f.Client, f.State, err)})
		}
	}
	return found, nil
}
