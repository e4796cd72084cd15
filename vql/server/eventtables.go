package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"raptorpack/flows"
	"raptorpack/vql"
)

// EventTable is what clients with one label watch; no label: all clients.
type EventTable struct {
	Label     string
	Artifacts []flows.Artifact
}

// EventTables reads and changes event tables in the name of a query's principal,
// by the same functions as the doors: these check permissions, compile, and leave
// the audit line. Secret values are hidden; a hidden value that is given back means
// the one that stands there.
type EventTables struct {
	Clients       func() []EventTable
	ChangeClients func(ctx context.Context, edit func([]EventTable) ([]EventTable, error)) error
	Server        func() []flows.Artifact
	ChangeServer  func(ctx context.Context, edit func([]flows.Artifact) ([]flows.Artifact, error)) error
}

// tablesOf returns the session's event tables.
func tablesOf(scope *vql.Scope) (*Host, *EventTables, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, nil, err
	}
	if h.Events == nil {
		return nil, nil, errNoTables
	}
	return h, h.Events, nil
}

type noArgs struct{}

var getClientMonitoringFunction = vql.NewFunction(vql.Spec{
	Name: "get_client_monitoring", Permission: "READ_RESULTS",
	Doc: "Gives the event tables of clients: artifacts {artifacts, specs} for all, and label_events, one {label, artifacts} for each label.",
}, func(_ context.Context, scope *vql.Scope, _ *noArgs) (vql.Value, error) {
	_, tables, err := tablesOf(scope)
	if err != nil {
		return nil, err
	}
	return clientTablesDict(tables.Clients()), nil
})

var getServerMonitoringFunction = vql.NewFunction(vql.Spec{
	Name: "get_server_monitoring", Permission: "READ_RESULTS",
	Doc: "Gives the event artifacts that run on the master: artifacts and specs.",
}, func(_ context.Context, scope *vql.Scope, _ *noArgs) (vql.Value, error) {
	_, tables, err := tablesOf(scope)
	if err != nil {
		return nil, err
	}
	return tableDict(tables.Server()), nil
})

type setMonitoringArgs struct {
	Value *vql.Dict `vql:"value,required" doc:"The tables, as the get function gives them."`
}

var setClientMonitoringFunction = vql.NewFunction(vql.Spec{
	Name: "set_client_monitoring", Permission: "COLLECT_CLIENT", Doc: "Replaces the event tables of clients and gives what stands then.",
}, func(ctx context.Context, scope *vql.Scope, args *setMonitoringArgs) (vql.Value, error) {
	_, tables, err := tablesOf(scope)
	if err != nil {
		return nil, err
	}
	wanted, err := readClientTables(ctx, scope, args.Value)
	if err != nil {
		return nil, err
	}
	err = tables.ChangeClients(ctx, func([]EventTable) ([]EventTable, error) { return wanted, nil })
	if err != nil {
		return nil, err
	}
	return clientTablesDict(tables.Clients()), nil
})

var setServerMonitoringFunction = vql.NewFunction(vql.Spec{
	Name: "set_server_monitoring", Permission: "COLLECT_SERVER", Doc: "Replaces the event artifacts that run on the master and gives what stands then.",
}, func(ctx context.Context, scope *vql.Scope, args *setMonitoringArgs) (vql.Value, error) {
	_, tables, err := tablesOf(scope)
	if err != nil {
		return nil, err
	}
	wanted, err := readTable(ctx, scope, args.Value)
	if err != nil {
		return nil, err
	}
	err = tables.ChangeServer(ctx, func([]flows.Artifact) ([]flows.Artifact, error) { return wanted, nil })
	if err != nil {
		return nil, err
	}
	return tableDict(tables.Server()), nil
})

type addClientMonitoringArgs struct {
	Artifact   string    `vql:"artifact,required" doc:"The event artifact, or Artifact/Source."`
	Parameters *vql.Dict `vql:"parameters" doc:"Its parameters."`
	Label      string    `vql:"label" doc:"Only for clients with this label (all clients)."`
}

var addClientMonitoringFunction = vql.NewFunction(vql.Spec{
	Name: "add_client_monitoring", Permission: "COLLECT_CLIENT",
	Doc: "Has clients watch an artifact, or with other parameters if they do already, and gives the tables that stand then.",
}, func(ctx context.Context, scope *vql.Scope, args *addClientMonitoringArgs) (vql.Value, error) {
	return changeClientTable(ctx, scope, args.Label, func(h *Host, all []flows.Artifact) []flows.Artifact {
		return h.put(ctx, scope, all, args.Artifact, args.Parameters)
	})
})

type rmClientMonitoringArgs struct {
	Artifact string `vql:"artifact,required" doc:"The event artifact as it stands in the table."`
	Label    string `vql:"label" doc:"From the table of this label (that of all clients)."`
}

var rmClientMonitoringFunction = vql.NewFunction(vql.Spec{
	Name: "rm_client_monitoring", Permission: "COLLECT_CLIENT", Doc: "Has clients watch an artifact no more and gives the tables that stand then.",
}, func(ctx context.Context, scope *vql.Scope, args *rmClientMonitoringArgs) (vql.Value, error) {
	return changeClientTable(ctx, scope, args.Label, func(_ *Host, all []flows.Artifact) []flows.Artifact { return without(all, args.Artifact) })
})

type addServerMonitoringArgs struct {
	Artifact   string    `vql:"artifact,required" doc:"The event artifact, or Artifact/Source."`
	Parameters *vql.Dict `vql:"parameters" doc:"Its parameters."`
}

var addServerMonitoringFunction = vql.NewFunction(vql.Spec{
	Name: "add_server_monitoring", Permission: "COLLECT_SERVER",
	Doc: "Has the master run an event artifact, or with other parameters if it does already, and gives what stands then.",
}, func(ctx context.Context, scope *vql.Scope, args *addServerMonitoringArgs) (vql.Value, error) {
	return changeServerTable(ctx, scope, func(h *Host, all []flows.Artifact) []flows.Artifact {
		return h.put(ctx, scope, all, args.Artifact, args.Parameters)
	})
})

type rmServerMonitoringArgs struct {
	Artifact string `vql:"artifact,required" doc:"The event artifact as it stands in the table."`
}

var rmServerMonitoringFunction = vql.NewFunction(vql.Spec{
	Name: "rm_server_monitoring", Permission: "COLLECT_SERVER", Doc: "Has the master run an event artifact no more and gives what stands then.",
}, func(ctx context.Context, scope *vql.Scope, args *rmServerMonitoringArgs) (vql.Value, error) {
	return changeServerTable(ctx, scope, func(_ *Host, all []flows.Artifact) []flows.Artifact { return without(all, args.Artifact) })
})

func changeClientTable(ctx context.Context, scope *vql.Scope, label string, edit func(*Host, []flows.Artifact) []flows.Artifact) (vql.Value, error) {
	h, tables, err := tablesOf(scope)
	if err != nil {
		return nil, err
	}
	label = strings.ToLower(strings.TrimSpace(label))
	err = tables.ChangeClients(ctx, func(all []EventTable) ([]EventTable, error) {
		at := slices.IndexFunc(all, func(t EventTable) bool { return t.Label == label })
		if at < 0 {
			at = len(all)
			all = append(all, EventTable{Label: label})
		}
		all[at].Artifacts = edit(h, all[at].Artifacts)
		return all, nil
	})
	if err != nil {
		return nil, err
	}
	return clientTablesDict(tables.Clients()), nil
}

func changeServerTable(ctx context.Context, scope *vql.Scope, edit func(*Host, []flows.Artifact) []flows.Artifact) (vql.Value, error) {
	h, tables, err := tablesOf(scope)
	if err != nil {
		return nil, err
	}
	err = tables.ChangeServer(ctx, func(all []flows.Artifact) ([]flows.Artifact, error) { return edit(h, all), nil })
	if err != nil {
		return nil, err
	}
	return tableDict(tables.Server()), nil
}

// put adds an artifact, or gives one that is there these parameters and no others.
func (h *Host) put(ctx context.Context, scope *vql.Scope, all []flows.Artifact, name string, parameters *vql.Dict) []flows.Artifact {
	a := flows.Artifact{Name: name}
	if parameters != nil {
		w := &parameterWriter{ctx: ctx, scope: scope, repository: h.Artifacts.Repository(h.Org)}
		w.write(&a, parameters)
	}
	at := slices.IndexFunc(all, func(other flows.Artifact) bool { return other.Name == name })
	if at < 0 {
		return append(all, a)
	}
	all[at] = a
	return all
}

func without(all []flows.Artifact, name string) []flows.Artifact {
	return slices.DeleteFunc(all, func(a flows.Artifact) bool { return a.Name == name })
}

func clientTablesDict(all []EventTable) *vql.Dict {
	everybody, labels := tableDict(nil), []*vql.Dict{}
	for _, t := range all {
		if t.Label == "" {
			everybody = tableDict(t.Artifacts)
			continue
		}
		labels = append(labels, vql.NewDict().Set("label", t.Label).Set("artifacts", tableDict(t.Artifacts)))
	}
	return vql.NewDict().Set("artifacts", everybody).Set("label_events", labels)
}

// tableDict shows artifacts with their parameters.
func tableDict(all []flows.Artifact) *vql.Dict {
	names, specs := []string{}, []*vql.Dict{}
	for _, a := range all {
		env := []*vql.Dict{}
		for _, p := range a.Parameters {
			env = append(env, vql.NewDict().Set("key", p.Name).Set("value", p.Value))
		}
		names = append(names, a.Name)
		specs = append(specs, vql.NewDict().Set("artifact", a.Name).Set("parameters", vql.NewDict().Set("env", env)))
	}
	return vql.NewDict().Set("artifacts", names).Set("specs", specs)
}

func readClientTables(ctx context.Context, scope *vql.Scope, value *vql.Dict) ([]EventTable, error) {
	var out []EventTable
	everybody, _ := value.Get("artifacts")
	table, ok := scope.Real(ctx, everybody).(*vql.Dict)
	if ok {
		named, err := readTable(ctx, scope, table)
		if err != nil {
			return nil, err
		}
		out = append(out, EventTable{Artifacts: named})
	} else if !vql.IsNull(everybody) {
		return nil, fmt.Errorf("value: artifacts is no dict: %w", ErrArgument)
	}
	labels, _ := value.Get("label_events")
	for _, one := range scope.Rows(ctx, labels) {
		row := scope.Row(ctx, one)
		label, _ := row.Get("label")
		inner, _ := row.Get("artifacts")
		table, ok := scope.Real(ctx, inner).(*vql.Dict)
		if !ok || vql.IsNull(label) {
			return nil, fmt.Errorf("value: label_events: expected a label and its artifacts: %w", ErrArgument)
		}
		named, err := readTable(ctx, scope, table)
		if err != nil {
			return nil, err
		}
		out = append(out, EventTable{scope.String(ctx, label), named})
	}
	return out, nil
}

// readTable reads what tableDict shows. Parameters of an artifact that is not among
// the names are a mistake.
func readTable(ctx context.Context, scope *vql.Scope, table *vql.Dict) ([]flows.Artifact, error) {
	var out []flows.Artifact
	names, _ := table.Get("artifacts")
	for _, name := range scope.Rows(ctx, names) {
		out = append(out, flows.Artifact{Name: scope.String(ctx, name)})
	}
	specs, _ := table.Get("specs")
	for _, one := range scope.Rows(ctx, specs) {
		row := scope.Row(ctx, one)
		name, _ := row.Get("artifact")
		at := slices.IndexFunc(out, func(a flows.Artifact) bool { return a.Name == scope.String(ctx, name) })
		if at < 0 {
			return nil, fmt.Errorf("value: specs name %.60q, which is not among the artifacts: %w", scope.String(ctx, name), ErrArgument)
		}
		parameters, _ := row.Get("parameters")
		env, _ := scope.Row(ctx, parameters).Get("env")
		for _, p := range scope.Rows(ctx, env) {
			pair := scope.Row(ctx, p)
			key, _ := pair.Get("key")
			value, _ := pair.Get("value")
			out[at].Parameters = append(out[at].Parameters, flows.Parameter{Name: scope.String(ctx, key), Value: scope.String(ctx, value)})
		}
	}
	return out, nil
}
