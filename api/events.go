package api

import (
	"context"
	"encoding/json"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/users"
)

// EventArtifact is an event artifact that has rows.
type EventArtifact struct {
	Name string   `json:"name" doc:"Artifact or Artifact/Source"`
	Days []string `json:"days" nullable:"false" doc:"on which rows came, UTC, oldest first"`
}

// EventRows is a page of event rows; they pass through as the bytes that are stored.
type EventRows struct {
	Items  []json.RawMessage `json:"items" nullable:"false"`
	Next   string            `json:"next,omitempty" doc:"pass as cursor for the next page; a page with it may be short or empty, when rows of other times were passed over"`
	Holes  []RowHole         `json:"holes,omitempty"`
	Damage []RowDamage       `json:"damage,omitempty" doc:"parts of files that cannot be used; of a day that is not over a torn end may be a write under way"`
	AsOf   AsOf              `json:"asOf"`
}

func (s *Server) eventRoutes() {
	s.monitoringRoutes()
	get(s, "/events", "listEvents", "List event artifacts that have rows, and on which days", s.listEvents)
	get(s, "/events/{artifact}", "eventRows", "Page through the rows of an event artifact, of all nodes", s.eventRows)
	get(s, "/events/{artifact}/logs", "eventLogs", "Page through the log of an event artifact's queries", s.eventLogs)
	s.tailRoutes()
}

// EventsIn is a question about events.
type EventsIn struct {
	Client string    `query:"client" doc:"only of this client; server: of the server's own queries"`
	From   time.Time `query:"from" doc:"rows that the server took at this time or later"`
	To     time.Time `query:"to" doc:"rows that the server took before this time"`
}

// clientOrAll parses the client of a question; zero: all.
func clientOrAll(text string) (ids.Client, error) {
	if text == "" {
		return ids.Client{}, nil
	}
	return ids.ParseClient(text)
}

func (s *Server) listEvents(ctx context.Context, in *EventsIn) (*body[List[EventArtifact]], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	client, err := clientOrAll(in.Client)
	if err != nil {
		return nil, err
	}
	found, err := s.o.Flows.EventList(ctx, ids.RootOrg, client, in.From, in.To)
	if err != nil {
		return nil, err
	}
	out := List[EventArtifact]{Items: []EventArtifact{}, Total: int64(len(found)), AsOf: s.asOf()}
	for _, e := range found {
		out.Items = append(out.Items, EventArtifact{e.Name, e.Days})
	}
	return &body[List[EventArtifact]]{out}, nil
}

type eventRowsIn struct {
	EventsIn
	Artifact string `path:"artifact" doc:"Artifact, or Artifact/Source with the slash escaped"`
	Source   string `query:"source" doc:"the artifact's source, for those who cannot escape a slash"`
	Limit    int    `query:"limit" minimum:"1" maximum:"10000" default:"200"`
	Cursor   string `query:"cursor"`
}

func (s *Server) eventRows(ctx context.Context, in *eventRowsIn) (*body[EventRows], error) {
	return s.eventPage(ctx, in, false)
}

func (s *Server) eventLogs(ctx context.Context, in *eventRowsIn) (*body[EventRows], error) {
	return s.eventPage(ctx, in, true)
}

func (s *Server) eventPage(ctx context.Context, in *eventRowsIn, log bool) (*body[EventRows], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	client, err := clientOrAll(in.Client)
	if err != nil {
		return nil, err
	}
	page, err := s.o.Flows.EventRows(ctx, flows.EventRowsQuery{
		Org: ids.RootOrg, Name: resultName(in.Artifact, in.Source), Client: client, Log: log,
		From: in.From, To: in.To, Limit: in.Limit, Cursor: in.Cursor,
	})
	if err != nil {
		return nil, err
	}
	out := EventRows{Items: make([]json.RawMessage, len(page.Rows)), Next: page.Next, Damage: showDamage(page.Damage), AsOf: s.asOf()}
	for i, row := range page.Rows {
		out.Items[i] = row.Line
	}
	for _, hole := range page.Holes {
		out.Holes = append(out.Holes, RowHole{hole.Rows.Start, hole.Rows.End})
	}
	return &body[EventRows]{out}, nil
}

func resultName(artifact, source string) string {
	if source == "" {
		return artifact
	}
	return artifact + "/" + source
}

func showDamage(all []filestore.Damage) []RowDamage {
	var out []RowDamage
	for _, d := range all {
		out = append(out, RowDamage{Path: d.Path, Offset: d.Offset, Bytes: d.Bytes, Kind: string(d.Kind)})
	}
	return out
}
