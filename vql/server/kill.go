package server

import (
	"context"
	"errors"
	"fmt"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/vql"
)

// errAway means that no node has a connection of the client, so that there is nothing
// to order.
var errAway = errors.New("the client is not connected")

var killFunction = vql.NewFunction(vql.Spec{
	Name: "killkillkill", Permission: "MACHINE_STATE",
	Doc: "Orders a client that is connected to exit at once. What restarts it is up to its machine. One that is away is not told later.",
}, func(ctx context.Context, scope *vql.Scope, args *clientArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	client, err := ids.ParseClient(args.ClientID)
	if err != nil {
		return nil, err
	}
	if _, err := h.Clients.Lookup(h.Org, client); err != nil {
		return nil, err
	}
	if !h.Clients.Seen(h.Org, client).Online {
		return nil, fmt.Errorf("kill %s: %w", client, errAway)
	}
	m, err := flows.PlanKill(h.Org, client)
	if err != nil {
		return nil, err
	}
	return vql.NULL, h.change(ctx, m, "client.kill", client.String(), nil)
})
