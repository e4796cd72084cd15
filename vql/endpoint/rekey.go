package endpoint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"raptorpack/vql"
)

// Rekeyer is a service by which the host of a session takes on a new identity. Only an
// agent has one.
type Rekeyer interface {
	// Rekey throws the key away once wait is over, and has the agent enrol anew. It
	// returns at once; an order that is under way already stands.
	Rekey(wait time.Duration) error
}

const (
	defaultRekeyWait = 10 * time.Second
	maxRekeyWait     = 24 * time.Hour
)

var errNoRekey = errors.New("this session is no agent's")

type rekeyArgs struct {
	Wait *int64 `vql:"wait" doc:"Seconds until it happens (10), so that this query's own end is still delivered."`
}

var rekeyFunction = vql.NewFunction(vql.Spec{
	Name: "rekey", Permission: "EXECVE",
	Doc: "Has the agent throw its key away and enrol anew, as another client. What it has not delivered by then is lost.",
}, func(_ context.Context, scope *vql.Scope, args *rekeyArgs) (vql.Value, error) {
	agent, ok := vql.Service[Rekeyer](scope)
	if !ok {
		return nil, errNoRekey
	}
	wait := defaultRekeyWait
	if args.Wait != nil {
		if *args.Wait < 0 || *args.Wait > int64(maxRekeyWait/time.Second) {
			return nil, fmt.Errorf("wait %d: expected 0 to %.0f seconds", *args.Wait, maxRekeyWait.Seconds())
		}
		wait = time.Duration(*args.Wait) * time.Second
	}
	return vql.NULL, agent.Rekey(wait)
})
