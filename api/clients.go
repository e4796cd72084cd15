package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"raptorpack/clients"
	"raptorpack/ids"
	"raptorpack/users"
)

// Client is one endpoint as operators see it.
type Client struct {
	ID            string            `json:"client_id"`
	Online        bool              `json:"online"`
	Hostname      string            `json:"hostname"`
	FQDN          string            `json:"fqdn"`
	OS            string            `json:"os"`
	Release       string            `json:"release"`
	Architecture  string            `json:"architecture"`
	Labels        []string          `json:"labels" nullable:"false"`
	LastSeen      *time.Time        `json:"last_seen,omitempty"`
	FirstSeen     time.Time         `json:"first_seen"`
	Address       string            `json:"address,omitempty"`
	Version       string            `json:"client_version,omitempty"`
	Name          string            `json:"client_name,omitempty"`
	BuildTime     string            `json:"build_time,omitempty"`
	MACs          []string          `json:"mac_addresses,omitempty"`
	Users         []string          `json:"users,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	Interrogation string            `json:"interrogation,omitempty" doc:"the flow that asked about the host last"`
	Interrogated  *time.Time        `json:"interrogated,omitempty"`
}

func (s *Server) client(r *clients.Record, seen clients.Seen) Client {
	labels := r.Labels
	if labels == nil {
		labels = []string{}
	}
	return Client{
		ID: r.Client.String(), Online: s.o.Online(r.Org, r.Client), Hostname: r.Hostname, FQDN: r.FQDN, OS: r.System,
		Release: r.Release, Architecture: r.Architecture, Labels: labels, LastSeen: timeOrNil(seen.At), FirstSeen: r.FirstSeen,
		Address: seen.Address, Version: r.Version, Name: r.Name, BuildTime: r.BuildTime, MACs: r.MACs, Users: r.Users,
		Metadata: r.Metadata, Interrogation: r.Interrogation.String(), Interrogated: timeOrNil(r.Interrogated),
	}
}

// ClientPath names a client in a path.
type ClientPath struct {
	Client string `path:"client" doc:"client id"`
}

func (s *Server) clientRoutes() {
	get(s, "/clients", "searchClients", "Find clients", s.searchClients)
	get(s, "/clients/{client}", "showClient", "Show one client", s.showClient)
	register(s, http.MethodPost, "/clients/labels", "labelClients", "Add and remove labels of clients", s.labelClients)
	register(s, http.MethodPatch, "/clients/{client}/metadata", "setMetadata", "Set and remove metadata of a client", s.setMetadata)
	register(s, http.MethodDelete, "/clients/{client}", "deleteClient", "Forget a client", s.deleteClient)
}

type searchIn struct {
	Query  string `query:"q" doc:"the search grammar: host:web* label:prod os:linux seen:<2h online -label:lab"`
	Limit  int    `query:"limit" minimum:"1" maximum:"10000" default:"200"`
	Cursor string `query:"cursor"`
}

func (s *Server) searchClients(ctx context.Context, in *searchIn) (*body[List[Client]], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	after, err := parseCursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	page, err := s.o.Clients.Search(ids.RootOrg, in.Query, after, in.Limit, time.Now())
	if err != nil {
		return nil, err
	}
	out := List[Client]{Items: make([]Client, len(page.Matches)), Total: int64(page.Total), AsOf: s.asOf()}
	for i, match := range page.Matches {
		out.Items[i] = s.client(match.Record, match.Seen)
	}
	if page.Next != 0 {
		out.Next = strconv.FormatUint(uint64(page.Next), 10)
	}
	return &body[List[Client]]{out}, nil
}

func parseCursor(text string) (uint32, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("cursor %.40q: %w", text, clients.ErrQuery)
	}
	return uint32(n), nil
}

func (s *Server) showClient(ctx context.Context, in *struct {
	ClientPath
},
) (*body[Client], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	id, err := ids.ParseClient(in.Client)
	if err != nil {
		return nil, err
	}
	record, err := s.o.Clients.Lookup(ids.RootOrg, id)
	if err != nil {
		return nil, err
	}
	return &body[Client]{s.client(record, s.o.Clients.Seen(ids.RootOrg, id))}, nil
}

type labelIn struct {
	Writing
	Body struct {
		Clients []string `json:"clients" minItems:"1" maxItems:"10000"`
		Add     []string `json:"add,omitempty"`
		Remove  []string `json:"remove,omitempty"`
	}
}

func (s *Server) labelClients(ctx context.Context, in *labelIn) (*body[Done], error) {
	who, err := s.may(ctx, users.LabelClient)
	if err != nil {
		return nil, err
	}
	which, err := parseClients(in.Body.Clients)
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) {
		m, err := s.o.Clients.PlanLabels(ids.RootOrg, which, in.Body.Add, in.Body.Remove)
		return &change{m, "label", strings.Join(in.Body.Clients[:min(10, len(in.Body.Clients))], ","), map[string]string{
			"add": strings.Join(in.Body.Add, ","), "remove": strings.Join(in.Body.Remove, ","), "clients": strconv.Itoa(len(which)),
		}}, err
	})
}

type metadataIn struct {
	Writing
	ClientPath
	Body struct {
		Set    map[string]string `json:"set,omitempty"`
		Remove []string          `json:"remove,omitempty"`
	}
}

func (s *Server) setMetadata(ctx context.Context, in *metadataIn) (*body[Done], error) {
	who, err := s.may(ctx, users.LabelClient)
	if err != nil {
		return nil, err
	}
	id, err := ids.ParseClient(in.Client)
	if err != nil {
		return nil, err
	}
	if id == ids.Server {
		if err := s.check(who, users.ServerAdmin); err != nil {
			return nil, err
		}
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) {
		m, err := s.o.Clients.PlanMetadata(ids.RootOrg, id, in.Body.Set, in.Body.Remove)
		return &change{m, "metadata", in.Client, in.Body.Set}, err
	})
}

func (s *Server) deleteClient(ctx context.Context, in *struct {
	Writing
	ClientPath
},
) (*body[Done], error) {
	who, err := s.may(ctx, users.DeleteResults)
	if err != nil {
		return nil, err
	}
	id, err := ids.ParseClient(in.Client)
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) {
		m, err := s.o.Clients.PlanDelete(ids.RootOrg, id)
		return &change{m, "client.delete", in.Client, nil}, err
	})
}
