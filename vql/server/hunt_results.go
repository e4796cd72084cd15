package server

import (
	"context"
	"fmt"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/vql"
)

type huntResultsArgs struct {
	Artifact string   `vql:"artifact" doc:"The artifact, or Artifact/Source (the first with rows)."`
	Source   string   `vql:"source" doc:"The source of the artifact."`
	HuntID   string   `vql:"hunt_id,required" doc:"The hunt."`
	Brief    bool     `vql:"brief" doc:"Leave out Fqdn and _OrgId."`
	Orgs     []string `vql:"orgs" doc:"The orgs; this version reaches the query's own only."`
}

var huntResultsPlugin = vql.NewPlugin(vql.Spec{
	Name: "hunt_results", Permission: "READ_RESULTS",
	Doc: "Reads the rows of a hunt's result, of all its clients, each row once; behind its own columns FlowId, ClientId, Fqdn and _OrgId. Rows of what was deleted are left out.",
}, func(ctx context.Context, scope *vql.Scope, args *huntResultsArgs, emit vql.Emit) error {
	h, one, err := huntOf(scope, args.HuntID)
	if err != nil {
		return err
	}
	if err := h.sameOrg(args.Orgs...); err != nil {
		return err
	}
	r := &huntRows{h: h, hunt: one, brief: args.Brief}
	return r.run(ctx, scope, args.Artifact, args.Source, 0, emit)
})

// huntRows streams the rows of one result of a hunt. The rows of a client's flow come
// one behind the other, so that it looks up each once.
type huntRows struct {
	h     *Host
	hunt  *hunts.Hunt
	brief bool
	skip  int64 // rows to pass over, of those that are shown

	key    flows.Key // whose rows come now
	shown  bool
	fqdn   string
	flow   string // what FlowId says
	hidden int64
}

// run emits count rows (0: all).
func (r *huntRows) run(ctx context.Context, scope *vql.Scope, artifact, source string, count int64, emit vql.Emit) error {
	if r.h.Rows == nil {
		return fmt.Errorf("read rows of hunts: %w", ErrUnsupported)
	}
	of := &results{of: "hunt " + r.hunt.Hunt.String(), names: r.hunt.Results, total: func(name string) (int64, error) {
		page, err := r.page(ctx, name, flows.Page{Limit: 1})
		if err != nil {
			return 0, err
		}
		return page.Total, nil
	}}
	name, err := of.choose(scope, artifact, source)
	if err != nil || name == "" {
		return err
	}
	s := &rowStream{
		scope: scope, name: name + " of " + r.hunt.Hunt.String(), emit: emit, wanted: r.wanted, dress: r.dress,
		read: func(p flows.Page) (*filestore.RowsPage, error) { return r.page(ctx, name, p) },
	}
	err = s.run(ctx, 0, count)
	if r.hidden > 0 {
		scope.Log(vql.LevelInfo, "%s: %d rows of clients or flows that were deleted are left out", s.name, r.hidden)
	}
	return err
}

func (r *huntRows) page(ctx context.Context, name string, p flows.Page) (*filestore.RowsPage, error) {
	page, err := r.h.Rows.ReadRows(ctx, filestore.HuntResults(r.h.Org, r.hunt.Hunt, name), filestore.RowsQuery{
		RowsFilter: filestore.RowsFilter{Name: name}, From: p.From, Limit: p.Limit, Cursor: p.Cursor,
	})
	if err != nil {
		return nil, fmt.Errorf("read %s of hunt %s: %w", name, r.hunt.Hunt, err)
	}
	return page, nil
}

func (r *huntRows) wanted(row filestore.Row) bool {
	if key := (flows.Key{Org: r.h.Org, Client: row.Client, Flow: row.Flow}); key != r.key {
		r.look(key)
	}
	switch {
	case !r.shown:
		r.hidden++
	case r.skip > 0:
		r.skip--
	default:
		return true
	}
	return false
}

// look finds out about the flow whose rows begin: clients share the files, so rows
// of what was deleted lie there until they are compacted.
func (r *huntRows) look(key flows.Key) {
	r.key, r.shown, r.fqdn, r.flow = key, false, "", key.Flow.String()
	f, err := r.h.Flows.Flow(key)
	if err != nil {
		return
	}
	if from := f.Spec.Origin; from != nil && from.Flow != "" {
		r.flow = from.Flow
	}
	record, err := r.h.Clients.Lookup(key.Org, key.Client)
	if err != nil {
		return
	}
	r.shown, r.fqdn = true, record.FQDN
	if r.fqdn == "" {
		r.fqdn = record.Hostname
	}
}

// dress puts the columns of the server behind those of the client. They are told from
// where the row was stored, whatever it says itself; those of a collection that was
// added to the hunt tell what that is called.
func (r *huntRows) dress(row filestore.Row, d *vql.Dict) {
	d.Delete("ClientId")
	d.Delete("FlowId")
	yield(d, "Fqdn")
	yield(d, "_OrgId")
	d.Set("FlowId", r.flow).Set("ClientId", row.Client.String())
	if !r.brief {
		d.Set("Fqdn", r.fqdn).Set("_OrgId", orgID(r.h.Org))
	}
}

// yield renames a client's column that the server has one of the same name of, as
// ClientId and FlowId were when the row came.
func yield(d *vql.Dict, name string) {
	value, there := d.Get(name)
	if !there {
		return
	}
	free := "client_" + name
	for _, taken := d.Get(free); taken; _, taken = d.Get(free) {
		free = "client_" + free
	}
	d.Delete(name)
	d.Set(free, value)
}
