package server

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/vql"
)

type huntAddArgs struct {
	ClientID string `vql:"client_id,required" doc:"The client."`
	HuntID   string `vql:"hunt_id,required" doc:"The hunt."`
	FlowID   string `vql:"flow_id" doc:"A collection of the client that has ended and has some of the hunt's artifacts: it is copied into the hunt, and nothing is asked of the client."`
	Relaunch bool   `vql:"relaunch" doc:"Run it again on a client that erred."`
}

var huntAddFunction = vql.NewFunction(vql.Spec{
	Name: "hunt_add", Permission: "START_HUNT", Doc: "Adds a client to a hunt whatever its conditions say, or a collection that it made already. Gives the client's id, or flow_id when that was given.",
}, func(ctx context.Context, scope *vql.Scope, args *huntAddArgs) (vql.Value, error) {
	h, one, err := huntOf(scope, args.HuntID)
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
	given, add := client.String(), h.addToHunt
	if args.FlowID != "" {
		flow, err := ids.ParseFlow(args.FlowID)
		if err != nil {
			return nil, err
		}
		given, add = args.FlowID, h.addFlow(flow)
	}
	set, err := add(ctx, one, client, args.Relaunch)
	if err != nil {
		return nil, err
	}
	if set != "" {
		scope.Log(vql.LevelInfo, "hunt_add: hunt %s has client %s already: %s", one.Hunt, client, set)
	}
	return given, nil
})

// addFlow adds a flow of a client as addToHunt adds a client. One that only waits is
// not asked any more.
func (h *Host) addFlow(flow ids.Flow) func(context.Context, *hunts.Hunt, ids.Client, bool) (string, error) {
	return func(ctx context.Context, one *hunts.Hunt, client ids.Client, again bool) (set string, err error) {
		if h.AddFlow == nil {
			return "", fmt.Errorf("add flow %s to a hunt: %w", flow, ErrUnsupported)
		}
		_, in, member := h.Hunts.Member(one.Key, client)
		if member && (in == hunts.RunningClients || in == hunts.CompletedClients || in == hunts.ErroredClients && !again) {
			return in.String(), nil
		}
		return "", h.AddFlow(ctx, hunts.CopyWish{Key: one.Key, Client: client, Flow: flow, Again: again})
	}
}

// addToHunt adds a client or, with again, lets one that erred take part once more.
// If the hunt has it already, nothing changes, and the set it is in is returned.
func (h *Host) addToHunt(ctx context.Context, one *hunts.Hunt, client ids.Client, again bool) (set string, err error) {
	operation, plan := "hunt.add", h.Hunts.PlanAdd
	if _, in, member := h.Hunts.Member(one.Key, client); member {
		switch in {
		case hunts.ErroredClients:
			if !again {
				return in.String(), nil
			}
			operation, plan = "hunt.rerun", h.Hunts.PlanRerun
		case hunts.CompletedClients:
			if again {
				return "", fmt.Errorf("run hunt %s again on %s, which completed it: %w", one.Hunt, client, ErrUnsupported)
			}
			return in.String(), nil
		case hunts.PendingClients, hunts.RunningClients:
			return in.String(), nil
		}
	}
	m, err := plan(one.Key, []ids.Client{client}, h.Principal, time.Now())
	if err != nil {
		return "", err
	}
	return "", h.change(ctx, m, operation, one.Hunt.String(), map[string]string{"clients": "1", "which": client.String()})
}

type huntUpdateArgs struct {
	HuntID      string     `vql:"hunt_id,required" doc:"The hunt."`
	Stop        bool       `vql:"stop" doc:"Admit nobody any more; what runs on clients goes on."`
	Start       bool       `vql:"start" doc:"Let it run: a draft, or again."`
	Description *string    `vql:"description" doc:"What it is for."`
	Expires     *time.Time `vql:"expires" doc:"When it ends."`
	AddLabels   []string   `vql:"add_labels" doc:"Tags to add."`
	DelLabels   []string   `vql:"del_labels" doc:"Tags to take off."`
}

var huntUpdateFunction = vql.NewFunction(vql.Spec{
	Name: "hunt_update", Permission: "START_HUNT",
	Doc: "Changes the description, expiry or tags of a hunt, then starts or stops it. Gives its id.",
}, func(ctx context.Context, scope *vql.Scope, args *huntUpdateArgs) (vql.Value, error) {
	h, one, err := huntOf(scope, args.HuntID)
	if err != nil {
		return nil, err
	}
	edit := hunts.Edit{Description: args.Description, Expires: args.Expires, Tags: args.tags(one)}
	edits := edit != hunts.Edit{}
	switch {
	case args.Start && args.Stop:
		return nil, fmt.Errorf("start and stop: expected one of them: %w", ErrArgument)
	case !edits && !args.Start && !args.Stop:
		return nil, fmt.Errorf("nothing to change: %w", ErrArgument)
	}
	// A hunt that has expired is started with its new expiry.
	if edits {
		m, err := h.Hunts.PlanEdit(one.Key, edit, h.Principal, time.Now())
		if err := h.changeHunt(ctx, one.Key, "hunt.change", nil, m, err); err != nil {
			return nil, err
		}
	}
	switch {
	case args.Start:
		m, err := h.Hunts.PlanStart(one.Key, h.Principal, time.Now())
		err = h.changeHunt(ctx, one.Key, "hunt.start", nil, m, err)
		return one.Hunt.String(), err
	case args.Stop:
		return one.Hunt.String(), h.stopHunt(ctx, one.Key, false)
	}
	return one.Hunt.String(), nil
})

// tags are those that a hunt is to have; nil: as it has.
func (a *huntUpdateArgs) tags(one *hunts.Hunt) *[]string {
	if len(a.AddLabels)+len(a.DelLabels) == 0 {
		return nil
	}
	all := slices.DeleteFunc(append(one.Tags.List(), a.AddLabels...), func(tag string) bool { return slices.Contains(a.DelLabels, tag) })
	return &all
}

// stopHunt ends a hunt, and with cancel what runs on clients.
func (h *Host) stopHunt(ctx context.Context, key hunts.Key, cancel bool) error {
	m, err := h.Hunts.PlanStop(key, cancel, h.Principal, time.Now())
	return h.changeHunt(ctx, key, "hunt.stop", map[string]string{"cancel": strconv.FormatBool(cancel)}, m, err)
}

// changeHunt makes a planned change of one hunt; err is of its planning.
func (h *Host) changeHunt(ctx context.Context, key hunts.Key, operation string, details map[string]string, m *buspb.Mutation, err error) error {
	if err != nil {
		return err
	}
	return h.change(ctx, m, operation, key.Hunt.String(), details)
}
