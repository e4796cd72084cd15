package server

import (
	"context"
	"slices"
	"strings"
	"time"

	"raptorpack/clients"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/vql"
)

// searchPage is how many clients one search gives. Each search looks at all of
// them under the room's lock, some 10 ms of 200,000, so pages are few.
const searchPage = 10_000

type clientsArgs struct {
	Search   string `vql:"search" doc:"Words to search for: host:web* label:prod ip:10.1.* mac: os: recent online; all, or nothing, is every client."`
	ClientID string `vql:"client_id" doc:"This client alone."`
}

var clientsPlugin = vql.NewPlugin(vql.Spec{
	Name: "clients", Permission: "READ_RESULTS", Doc: "Lists clients. Times are microseconds.",
	Columns: []string{
		"client_id", "agent_information", "os_info", "first_seen_at", "last_seen_at", "last_ip", "labels",
		"last_interrogate_flow_id", "last_interrogate_artifact_name", "last_hunt_timestamp", "last_event_table_version",
		"last_label_timestamp", "in_flight_flows",
	},
}, func(ctx context.Context, scope *vql.Scope, args *clientsArgs, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	if args.ClientID != "" {
		row, err := h.client(args.ClientID)
		if err != nil {
			return err
		}
		return emit(row)
	}
	for after, first := uint32(0), true; first || after != 0; first = false {
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		page, err := h.Clients.Search(h.Org, searchText(args.Search), after, searchPage, time.Now())
		if err != nil {
			return err
		}
		for _, m := range page.Matches {
			if err := emit(h.clientRow(m.Record, m.Seen)); err != nil {
				return err
			}
		}
		after = page.Next
	}
	return nil
})

// searchText takes the customary words with nothing behind their colon.
func searchText(text string) string {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "", "all", "all:":
		return ""
	case "recent:":
		return "recent"
	}
	return text
}

type clientArgs struct {
	ClientID string `vql:"client_id,required" doc:"The client."`
}

var clientInfoFunction = vql.NewFunction(vql.Spec{
	Name: "client_info", Permission: "READ_RESULTS", Doc: "Describes a client as clients() does; NULL when it is unknown.",
}, func(_ context.Context, scope *vql.Scope, args *clientArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	row, err := h.client(args.ClientID)
	if err != nil {
		return nil, err
	}
	return row, nil
})

func (h *Host) client(text string) (*vql.Dict, error) {
	id, err := ids.ParseClient(text)
	if err != nil {
		return nil, err
	}
	record, err := h.Clients.Lookup(h.Org, id)
	if err != nil {
		return nil, err
	}
	return h.clientRow(record, h.Clients.Seen(h.Org, id)), nil
}

func (h *Host) clientRow(r *clients.Record, seen clients.Seen) *vql.Dict {
	running, hunted := h.flowsNow(r.Client)
	agent := vql.NewDict().Set("version", r.Version).Set("name", r.Name).Set("build_time", r.BuildTime).Set("build_url", r.BuildURL)
	host := vql.NewDict().Set("system", r.System).Set("hostname", r.Hostname).Set("release", r.Release).
		Set("machine", r.Architecture).Set("fqdn", r.FQDN).Set("mac_addresses", list(r.MACs))
	return vql.NewDict().
		Set("client_id", r.Client.String()).
		Set("agent_information", agent).
		Set("os_info", host).
		Set("first_seen_at", micros.Of(r.FirstSeen)).
		Set("last_seen_at", micros.Of(seen.At)).
		Set("last_ip", seen.Address).
		Set("labels", list(r.Labels)).
		Set("last_interrogate_flow_id", r.Interrogation.String()).
		Set("last_interrogate_artifact_name", h.interrogationArtifact(r)).
		Set("last_hunt_timestamp", micros.Of(hunted)).
		Set("last_event_table_version", int64(0)).
		Set("last_label_timestamp", micros.Of(r.LabelsChanged)).
		Set("in_flight_flows", running)
}

// interrogationArtifact is what asked the client about its host last, as far as
// that flow is still known.
func (h *Host) interrogationArtifact(r *clients.Record) string {
	f, err := h.Flows.Flow(flows.Key{Org: h.Org, Client: r.Client, Flow: r.Interrogation})
	if err != nil || len(f.Spec.Artifacts) == 0 {
		return ""
	}
	return f.Spec.Artifacts[0].Name
}

// flowsNow maps the flows of a client that have not ended to the time they were
// started, and tells when a hunt last started one.
func (h *Host) flowsNow(client ids.Client) (running *vql.Dict, hunted time.Time) {
	running = vql.NewDict()
	for _, f := range slices.Backward(h.Flows.List(h.Org, client, ids.Flow{}, 0)) {
		if !f.State.Final() {
			running.Set(f.Flow.String(), micros.Of(f.Created))
		}
		if !f.Spec.Hunt.IsZero() {
			hunted = latest(hunted, f.Created)
		}
	}
	return running, hunted
}

// list makes nil an empty list, not NULL.
func list(texts []string) []string {
	if texts == nil {
		return []string{}
	}
	return texts
}
