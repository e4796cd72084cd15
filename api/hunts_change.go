package api

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"raptorpack/clients"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/users"
)

// HuntEdit changes what may change of a hunt.
type HuntEdit struct {
	Description *string    `json:"description,omitempty"`
	Rate        *int64     `json:"clients_per_minute,omitempty" minimum:"0"`
	Limit       *int64     `json:"client_limit,omitempty" minimum:"0"`
	Expires     *time.Time `json:"expires,omitempty"`
	Tags        *[]string  `json:"tags,omitempty" doc:"all of them; an empty list takes them off"`
}

func (s *Server) changeHunt(ctx context.Context, in *struct {
	Writing
	HuntPath
	Body HuntEdit
},
) (*body[Done], error) {
	return s.onHunt(ctx, users.StartHunt, in.Writing, in.HuntPath, "hunt.change", func(key hunts.Key, who *Principal) (*change, error) {
		m, err := s.o.Hunts.PlanEdit(key, hunts.Edit(in.Body), who.Name, time.Now())
		return &change{m: m}, err
	})
}

// onHunt changes one hunt in the name of the caller.
func (s *Server) onHunt(ctx context.Context, needed users.Permission, w Writing, p HuntPath, operation string,
	plan func(hunts.Key, *Principal) (*change, error),
) (*body[Done], error) {
	who, err := s.may(ctx, needed)
	if err != nil {
		return nil, err
	}
	key, err := p.key()
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, w, func() (*change, error) {
		c, err := plan(key, who)
		if err != nil {
			return nil, err
		}
		c.operation, c.object = operation, p.Hunt
		return c, nil
	})
}

func (s *Server) moveHunt(ctx context.Context, in *struct {
	Writing
	HuntPath
	Move   string `path:"move" enum:"start,pause,stop,archive"`
	Cancel bool   `query:"cancel" doc:"of stop: cancel what runs on clients"`
},
) (*body[Done], error) {
	return s.onHunt(ctx, users.StartHunt, in.Writing, in.HuntPath, "hunt."+in.Move, func(key hunts.Key, who *Principal) (*change, error) {
		c, err := &change{}, error(nil)
		switch now := time.Now(); in.Move {
		case "start":
			c.m, err = s.o.Hunts.PlanStart(key, who.Name, now)
		case "pause":
			c.m, err = s.o.Hunts.PlanPause(key, who.Name, now)
		case "stop":
			c.m, err = s.o.Hunts.PlanStop(key, in.Cancel, who.Name, now)
			c.details = map[string]string{"cancel": strconv.FormatBool(in.Cancel)}
		default:
			c.m, err = s.o.Hunts.PlanArchive(key, who.Name, now)
		}
		return c, err
	})
}

func (s *Server) deleteHunt(ctx context.Context, in *struct {
	Writing
	HuntPath
},
) (*body[Done], error) {
	return s.onHunt(ctx, users.DeleteResults, in.Writing, in.HuntPath, "hunt.delete", func(key hunts.Key, who *Principal) (*change, error) {
		m, err := s.o.Hunts.PlanDelete(key, who.Name, time.Now())
		return &change{m: m}, err
	})
}

// HuntClients names clients of a hunt.
type HuntClients struct {
	Clients []string `json:"clients,omitempty" maxItems:"10000"`
}

// HuntAddition names clients that are added to a hunt by hand, or a collection of one.
type HuntAddition struct {
	HuntClients
	Flow  string `json:"flow_id,omitempty" doc:"a collection of the one client, which has ended: what the hunt wants of it stands among the hunt's results; nothing is asked of the client"`
	Again bool   `json:"again,omitempty" doc:"of a collection: also if the client erred in the hunt"`
}

func (s *Server) addToHunt(ctx context.Context, in *struct {
	Writing
	HuntPath
	Body HuntAddition
},
) (*body[Done], error) {
	if in.Body.Flow != "" || in.Body.Again {
		return s.addFlowToHunt(ctx, in.Writing, in.HuntPath, &in.Body)
	}
	return s.onHunt(ctx, users.StartHunt, in.Writing, in.HuntPath, "hunt.add", func(key hunts.Key, who *Principal) (*change, error) {
		return s.withClients(in.Body.Clients, func(which []ids.Client) (*change, error) {
			m, err := s.o.Hunts.PlanAdd(key, which, who.Name, time.Now())
			return &change{m: m}, err
		})
	})
}

func (s *Server) rerunHunt(ctx context.Context, in *struct {
	Writing
	HuntPath
	Body HuntClients `doc:"without clients: all that erred"`
},
) (*body[Done], error) {
	return s.onHunt(ctx, users.StartHunt, in.Writing, in.HuntPath, "hunt.rerun", func(key hunts.Key, who *Principal) (*change, error) {
		return s.withClients(in.Body.Clients, func(which []ids.Client) (*change, error) {
			m, err := s.o.Hunts.PlanRerun(key, which, who.Name, time.Now())
			return &change{m: m}, err
		})
	})
}

// withClients parses and knows all clients, and tells the audit trail how many.
func (s *Server) withClients(texts []string, plan func([]ids.Client) (*change, error)) (*change, error) {
	which, err := parseClients(texts)
	if err != nil {
		return nil, err
	}
	for _, client := range which {
		if _, known := s.o.Clients.Ordinal(ids.RootOrg, client); !known {
			return nil, fmt.Errorf("%s: %w", client, clients.ErrUnknownClient)
		}
	}
	c, err := plan(which)
	if err == nil {
		c.details = map[string]string{"clients": strconv.Itoa(len(which))}
		if len(which) <= 10 {
			c.details["which"] = strings.Join(texts, ",")
		}
	}
	return c, err
}
