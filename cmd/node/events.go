package node

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"raptorpack/api"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/monitoring"
	"raptorpack/queues"
	"raptorpack/vql"
	"raptorpack/vql/server"
)

// eventWait is how long a client gathers event rows whose artifact does not say, in
// seconds; each table gets another number, so that clients do not send together.
func (n *Node) eventWait() uint64 {
	d := n.o.Config.Defaults
	return uint64(max(d.EventMaxWaitSeconds+rand.N(max(d.EventMaxWaitJitterSeconds, 1)), 1))
}

// storedEvents tells the other nodes that this one stored rows of an event artifact.
func (n *Node) storedEvents(org ids.Org, name string) {
	if n.presence != nil {
		n.presence.grown(org, name)
	}
}

// heardOfEvents wakes who follows what another node stored.
func (n *Node) heardOfEvents(org ids.Org, name string) { n.flows.HeardOfEvents(org, name) }

// eventTables gives queries the event tables in the name of who.
func (d *doors) eventTables(who *api.Principal) *server.EventTables {
	return &server.EventTables{
		Clients: func() []server.EventTable {
			tables, _ := d.api.ClientEvents()
			return tablesOf(tables)
		},
		ChangeClients: func(ctx context.Context, edit func([]server.EventTable) ([]server.EventTable, error)) error {
			return d.api.ChangeClientEvents(ctx, who, func(all []api.EventTable) ([]api.EventTable, error) {
				edited, err := edit(tablesOf(all))
				var out []api.EventTable
				for _, t := range edited {
					out = append(out, api.EventTable{Label: t.Label, Artifacts: specsOf(t.Artifacts)})
				}
				return out, err
			})
		},
		Server: func() []flows.Artifact {
			shown, _ := d.api.ServerEvents()
			var out []flows.Artifact
			for _, a := range shown {
				out = append(out, artifactOf(a.CollectSpec))
			}
			return out
		},
		ChangeServer: func(ctx context.Context, edit func([]flows.Artifact) ([]flows.Artifact, error)) error {
			return d.api.ChangeServerEvents(ctx, who, func(all []api.CollectSpec) ([]api.CollectSpec, error) {
				edited, err := edit(artifactsOf(all))
				return specsOf(edited), err
			})
		},
	}
}

func tablesOf(all []api.EventTable) []server.EventTable {
	var out []server.EventTable
	for _, t := range all {
		out = append(out, server.EventTable{Label: t.Label, Artifacts: artifactsOf(t.Artifacts)})
	}
	return out
}

func artifactsOf(all []api.CollectSpec) []flows.Artifact {
	var out []flows.Artifact
	for _, spec := range all {
		out = append(out, artifactOf(spec))
	}
	return out
}

func artifactOf(spec api.CollectSpec) flows.Artifact {
	a := flows.Artifact{Name: spec.Name}
	for _, name := range slices.Sorted(maps.Keys(spec.Parameters)) {
		a.Parameters = append(a.Parameters, flows.Parameter{Name: name, Value: spec.Parameters[name]})
	}
	return a
}

func specsOf(all []flows.Artifact) []api.CollectSpec {
	var out []api.CollectSpec
	for _, a := range all {
		out = append(out, api.CollectSpec{Name: a.Name, Parameters: parametersOf(a)})
	}
	return out
}

// wireQueues makes what writes the rows that the pack tells of itself.
func (n *Node) wireQueues() {
	rows := server.NewFlowRows(n.flows)
	record := func(dst []byte, key flows.Key) []byte {
		f, err := n.flows.Flow(key)
		if err != nil {
			return dst
		}
		return rows.AppendJSON(dst, f)
	}
	n.queue = queues.NewWriter(queues.WriterOptions{
		Room: n.queues, Committer: n.committer, Flows: n.flows, AppendRecord: record, Uploads: n.flows.Uploads,
		Registerer: n.registry, Logger: n.component("queues"),
	})
}

// openEvents wires what runs the server's event artifacts.
func (n *Node) openEvents(d *doors, o *api.Options) {
	n.events = monitoring.New(monitoring.Options{
		Flows: n.flows, Artifacts: n.artifacts, Committer: n.committer, Engine: o.Engine, Tools: n.toolVariables, Metadata: n.clients.ServerMetadata, Untold: n.ledger.Untold,
		Session: func(org ids.Org, principal string, watch any) vql.SessionOptions {
			who := api.Principal{Name: principal, Local: strings.HasPrefix(principal, api.LocalPrefix)}
			return vql.SessionOptions{
				Permissions: d.api.Permissions(&who), Accessors: o.Accessors, Artifacts: n.artifacts.Repository(org),
				Services: append(n.queryServices(d, who), watch),
			}
		},
		Registerer: n.registry, Logger: n.component("monitoring"),
	})
}
