package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"raptorpack/ids"
	"raptorpack/users"
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

type setMetadataArgs struct {
	ClientID string     `vql:"client_id,required" doc:"The client."`
	Metadata *vql.Dict  `vql:"metadata" doc:"Keys and values; NULL removes a key. Any further keyword counts too."`
	Modify   vql.Lambda `vql:"modify" doc:"A lambda that is given the metadata and returns what to set. It is not repeated when somebody else sets the same key meanwhile: the later change wins."`
	Rest     vql.Rest
}

var clientSetMetadataFunction = vql.NewFunction(vql.Spec{
	Name: "client_set_metadata", Permission: "COLLECT_CLIENT", Doc: "Sets and removes metadata of a client. Values are kept as text.",
}, func(ctx context.Context, scope *vql.Scope, args *setMetadataArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	client, err := ids.ParseClient(args.ClientID)
	if err != nil {
		return nil, err
	}
	if client == ids.Server {
		if err := need(scope, users.ServerAdmin); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("set metadata of the server: %w", ErrUnsupported)
	}
	record, err := h.Clients.Lookup(h.Org, client)
	if err != nil {
		return nil, err
	}
	wish := &metadataWish{set: map[string]string{}}
	if args.Metadata != nil {
		wish.add(ctx, scope, args.Metadata)
	}
	wish.add(ctx, scope, args.Rest.Dict(ctx, scope))
	if args.Modify.Given() {
		made := scope.Real(ctx, args.Modify.Call(ctx, scope, metadataOf(record)))
		d, ok := made.(*vql.Dict)
		if !ok {
			return nil, fmt.Errorf("modify gave %T, expected a dict: %w", made, ErrArgument)
		}
		wish.add(ctx, scope, d)
	}
	if len(wish.set)+len(wish.remove) == 0 {
		return nil, fmt.Errorf("nothing to set: %w", ErrArgument)
	}
	m, err := h.Clients.PlanMetadata(h.Org, client, wish.set, wish.remove)
	if err != nil {
		return nil, err
	}
	return true, h.change(ctx, m, "metadata", client.String(), wish.set)
})

// metadataWish gathers what to set; a later word for a key replaces an earlier.
type metadataWish struct {
	set    map[string]string
	remove []string
}

func (w *metadataWish) add(ctx context.Context, scope *vql.Scope, d *vql.Dict) {
	for _, key := range d.Keys() {
		value, _ := d.Get(key)
		value = scope.Real(ctx, value)
		delete(w.set, key)
		w.remove = slices.DeleteFunc(w.remove, func(other string) bool { return other == key })
		if vql.IsNull(value) {
			w.remove = append(w.remove, key)
			continue
		}
		w.set[key] = scope.String(ctx, value)
	}
}
