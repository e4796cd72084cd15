package server

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"raptorpack/ids"
	"raptorpack/users"
	"raptorpack/vql"
)

var clientMetadataFunction = vql.NewFunction(vql.Spec{
	Name: "client_metadata", Permission: "READ_RESULTS", Doc: "Gives the metadata of a client as a dict. That of the pseudo client server needs SERVER_ADMIN.",
}, func(_ context.Context, scope *vql.Scope, args *clientArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	id, err := ids.ParseClient(args.ClientID)
	if err != nil {
		return nil, err
	}
	found, err := h.metadata(scope, id)
	if err != nil {
		return nil, err
	}
	return metadataDict(found), nil
})

// metadata is what is kept of a client, or of the server for those who may see it.
func (h *Host) metadata(scope *vql.Scope, id ids.Client) (map[string]string, error) {
	if id == ids.Server {
		return h.Clients.ServerMetadata(h.Org), need(scope, users.ServerAdmin)
	}
	record, err := h.Clients.Lookup(h.Org, id)
	if err != nil {
		return nil, err
	}
	return record.Metadata, nil
}

func metadataDict(m map[string]string) *vql.Dict {
	out := vql.NewDict()
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out.Set(key, m[key])
	}
	return out
}

type serverMetadataArgs struct {
	Metadata *vql.Dict `vql:"metadata" doc:"Keys and values to set first; NULL removes a key. Any further keyword counts too."`
	Rest     vql.Rest
}

var serverMetadataFunction = vql.NewFunction(vql.Spec{
	Name: "server_metadata", Permission: "SERVER_ADMIN",
	Doc: "Gives the server's metadata as a dict, once what the arguments say is set.",
}, func(ctx context.Context, scope *vql.Scope, args *serverMetadataArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	wish := newMetadataWish(ctx, scope, args.Metadata, args.Rest)
	if !wish.empty() {
		if err := h.setMetadata(ctx, ids.Server, wish); err != nil {
			return nil, err
		}
	}
	return metadataDict(h.Clients.ServerMetadata(h.Org)), nil
})

var serverSetMetadataFunction = vql.NewFunction(vql.Spec{
	Name: "server_set_metadata", Permission: "SERVER_ADMIN",
	Doc: "Sets and removes metadata of the server, which parameters of type server_metadata take as their default. Values are kept as text.",
}, func(ctx context.Context, scope *vql.Scope, args *serverMetadataArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	return true, h.setMetadata(ctx, ids.Server, newMetadataWish(ctx, scope, args.Metadata, args.Rest))
})

type setMetadataArgs struct {
	ClientID string     `vql:"client_id,required" doc:"The client, or server."`
	Metadata *vql.Dict  `vql:"metadata" doc:"Keys and values; NULL removes a key. Any further keyword counts too."`
	Modify   vql.Lambda `vql:"modify" doc:"A lambda that is given the metadata and returns what to set. It is not repeated when somebody else sets the same key meanwhile: the later change wins."`
	Rest     vql.Rest
}

var clientSetMetadataFunction = vql.NewFunction(vql.Spec{
	Name: "client_set_metadata", Permission: "COLLECT_CLIENT",
	Doc: "Sets and removes metadata of a client; that of the pseudo client server needs SERVER_ADMIN. Values are kept as text.",
}, func(ctx context.Context, scope *vql.Scope, args *setMetadataArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	client, err := ids.ParseClient(args.ClientID)
	if err != nil {
		return nil, err
	}
	known, err := h.metadata(scope, client)
	if err != nil {
		return nil, err
	}
	wish := newMetadataWish(ctx, scope, args.Metadata, args.Rest)
	if args.Modify.Given() {
		made := scope.Real(ctx, args.Modify.Call(ctx, scope, metadataDict(known)))
		d, ok := made.(*vql.Dict)
		if !ok {
			return nil, fmt.Errorf("modify gave %T, expected a dict: %w", made, ErrArgument)
		}
		wish.given = true
		wish.add(ctx, scope, d)
	}
	return true, h.setMetadata(ctx, client, wish)
})

func (h *Host) setMetadata(ctx context.Context, client ids.Client, wish *metadataWish) error {
	if wish.empty() {
		if wish.given { // as when a lambda finds nothing to change
			return nil
		}
		return fmt.Errorf("nothing to set: %w", ErrArgument)
	}
	m, err := h.Clients.PlanMetadata(h.Org, client, wish.set, wish.remove)
	if err != nil {
		return err
	}
	return h.change(ctx, m, "metadata", client.String(), wish.set)
}

// metadataWish gathers what to set; a later word for a key replaces an earlier.
type metadataWish struct {
	set    map[string]string
	remove []string
	given  bool // there was a dict, maybe an empty one
}

func newMetadataWish(ctx context.Context, scope *vql.Scope, given *vql.Dict, rest vql.Rest) *metadataWish {
	w := &metadataWish{set: map[string]string{}, given: given != nil}
	if given != nil {
		w.add(ctx, scope, given)
	}
	w.add(ctx, scope, rest.Dict(ctx, scope))
	return w
}

func (w *metadataWish) empty() bool { return len(w.set)+len(w.remove) == 0 }

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
