package server

import (
	"context"
	"fmt"
	"strings"

	"raptorpack/ids"
	"raptorpack/vql"
)

type labelArgs struct {
	ClientID string   `vql:"client_id,required" doc:"The client."`
	Labels   []string `vql:"labels,required" doc:"The labels."`
	Op       string   `vql:"op" doc:"set (the default), remove, or check whether the client carries all of them."`
}

var labelFunction = vql.NewFunction(vql.Spec{
	Name: "label", Permission: "LABEL_CLIENT",
	Doc: "Sets, removes or checks labels of a client. Gives what was done, or FALSE when a checked label is not there.",
}, func(ctx context.Context, scope *vql.Scope, args *labelArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	client, err := ids.ParseClient(args.ClientID)
	if err != nil {
		return nil, err
	}
	done := vql.NewDict().Set("ClientId", client.String()).Set("Labels", args.Labels)
	switch args.Op {
	case "check":
		record, err := h.Clients.Lookup(h.Org, client)
		if err != nil {
			return nil, err
		}
		for _, label := range args.Labels {
			if !record.HasLabel(strings.TrimSpace(label)) {
				return false, nil
			}
		}
		return done.Set("Op", "check"), nil
	case "", "set":
		return done.Set("Op", "set"), h.label(ctx, client, args.Labels, nil)
	case "remove":
		return done.Set("Op", "remove"), h.label(ctx, client, nil, args.Labels)
	}
	return nil, fmt.Errorf("op %.40q: expected set, remove or check: %w", args.Op, ErrArgument)
})

func (h *Host) label(ctx context.Context, client ids.Client, add, remove []string) error {
	m, err := h.Clients.PlanLabels(h.Org, []ids.Client{client}, add, remove)
	if err != nil {
		return err
	}
	return h.change(ctx, m, "label", client.String(), map[string]string{
		"add": strings.Join(add, ","), "remove": strings.Join(remove, ","), "clients": "1",
	})
}
