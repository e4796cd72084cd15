package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"raptorpack/artifacts"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/users"
)

// HuntTargets say which clients a hunt wants.
type HuntTargets struct {
	IncludeLabels []string `json:"include_labels,omitempty" doc:"clients that have one of them; none given: all"`
	ExcludeLabels []string `json:"exclude_labels,omitempty" doc:"but none of these"`
	OS            string   `json:"os,omitempty" enum:"windows,linux,darwin,freebsd"`
	OnlyAdded     bool     `json:"only_added,omitempty" doc:"none but the clients that are added by hand"`
	Condition     string   `json:"condition,omitempty" doc:"VQL that runs on the client, which takes part if a row comes; needs ARTIFACT_WRITER"`
	Filter        string   `json:"filter,omitempty" doc:"VQL that runs on the server over the condition's rows (and about client), and the client never sees; it takes part if a row is left; needs ANY_QUERY"`
}

func (t *HuntTargets) conditions() hunts.Conditions {
	return hunts.Conditions{
		Include: t.IncludeLabels, Exclude: t.ExcludeLabels, OS: t.OS, OnlyAdded: t.OnlyAdded, Condition: t.Condition, Filter: t.Filter,
	}
}

func targetsOf(c *hunts.Conditions) HuntTargets {
	return HuntTargets{c.Include, c.Exclude, c.OS, c.OnlyAdded, c.Condition, c.Filter}
}

// HuntRequest is a wish for a hunt.
type HuntRequest struct {
	CollectRequest
	HuntTargets
	Description string    `json:"description,omitempty"`
	Tags        []string  `json:"tags,omitempty" doc:"words to find it by"`
	Rate        int64     `json:"clients_per_minute,omitempty" minimum:"0" doc:"0: as fast as it goes"`
	Limit       int64     `json:"client_limit,omitempty" minimum:"0" doc:"clients that may take part in all; 0: no limit"`
	Expires     time.Time `json:"expires,omitempty" doc:"left out: in a week"`
	Clients     []string  `json:"clients,omitempty" maxItems:"10000" doc:"added by hand, whatever the conditions say"`
	Start       bool      `json:"start,omitempty" doc:"runs at once; otherwise it is a draft"`
}

// Hunted is the answer to a new hunt.
type Hunted struct {
	Hunt  string `json:"hunt_id"`
	Index uint64 `json:"index"`
}

// Hunt is one hunt as operators see it.
type Hunt struct {
	ID          string         `json:"hunt_id"`
	State       string         `json:"state" enum:"draft,running,paused,stopped,expired,archived,deleted"`
	Description string         `json:"description"`
	Tags        []string       `json:"tags"`
	Creator     string         `json:"creator"`
	Artifacts   []CollectSpec  `json:"artifacts"`
	Results     []string       `json:"results" doc:"names of results, as Artifact or Artifact/Source"`
	Targets     HuntTargets    `json:"targets"`
	Urgent      bool           `json:"urgent,omitempty"`
	Rate        int64          `json:"clients_per_minute"`
	Limit       int64          `json:"client_limit"`
	Created     time.Time      `json:"created"`
	Started     *time.Time     `json:"started,omitempty"`
	Ended       *time.Time     `json:"ended,omitempty"`
	Expires     time.Time      `json:"expires"`
	ChangedBy   string         `json:"changed_by,omitempty" doc:"who started, paused or ended it last; empty: the server"`
	Clients     map[string]int `json:"clients" doc:"how many clients are pending, running, completed, errored, declined, removed, and how many have results; exact"`
	Joined      int            `json:"joined" doc:"clients that took part or do now"`
	Flows       int64          `json:"flows"`
	Rows        int64          `json:"rows"`
	Uploads     int64          `json:"uploads"`
	Bytes       int64          `json:"upload_bytes"`
	Logs        int64          `json:"logs"`
	Seconds     float64        `json:"duration_seconds" doc:"sum over all flows of their longest query"`
	CPU         *int64         `json:"cpu_ns,omitempty" doc:"processor time on clients in nanoseconds, of the cpu_told flows whose agents told it; left out: none did"`
	CPUTold     int64          `json:"cpu_told" doc:"flows whose agents told their processor time as they ended; stock agents tell none"`
	Folder      string         `json:"folder" doc:"where the files lie below the filestore"`
	Origin      *HuntOrigin    `json:"origin,omitempty" doc:"where it ran, if that was elsewhere"`
}

func showHunt(h *hunts.Hunt) Hunt {
	out := Hunt{
		ID: h.Hunt.String(), State: string(h.State), Description: h.Description, Tags: h.Tags.List(), Creator: h.Creator, Artifacts: showSpecs(h.Artifacts),
		Results: h.Results, Targets: targetsOf(&h.Conditions), Urgent: h.Urgent, Rate: h.Rate, Limit: h.Settings.Limit,
		Created: h.Created, Started: timeOrNil(h.Started), Ended: timeOrNil(h.Ended), Expires: h.Expires, ChangedBy: h.MovedBy,
		Clients: map[string]int{}, Joined: h.Counts.Joined(), Flows: h.Sums.Flows, Rows: h.Sums.Rows, Uploads: h.Sums.Uploads,
		Bytes: h.Sums.UploadBytes, Logs: h.Sums.Logs, Seconds: h.Sums.Duration.Seconds(),
		CPU: h.Sums.CPUNanoseconds(), CPUTold: h.Sums.CPUTold, Folder: filestore.HuntDir(h.Org, h.Hunt), Origin: originOf(h.Origin),
	}
	for set, n := range h.Counts {
		out.Clients[hunts.Set(set).String()] = n
	}
	return out
}

// HuntPath names a hunt in a path.
type HuntPath struct {
	Hunt string `path:"hunt" doc:"hunt id"`
}

func (p HuntPath) key() (hunts.Key, error) {
	hunt, err := ids.ParseHunt(p.Hunt)
	return hunts.Key{Org: ids.RootOrg, Hunt: hunt}, err
}

func (s *Server) huntRoutes() {
	const one = "/hunts/{hunt}"
	register(s, http.MethodPost, "/hunts", "createHunt", "Make a hunt: artifacts for many clients", s.createHunt)
	s.huntImportRoute()
	get(s, "/hunts/estimate", "estimateHunt", "Count the clients that a hunt would find now", s.estimateHunt)
	get(s, "/hunts", "listHunts", "List hunts, newest first", s.listHunts)
	get(s, one, "showHunt", "Show one hunt", s.showHunt)
	register(s, http.MethodPatch, one, "changeHunt", "Change a hunt's description, rate, limit or expiry", s.changeHunt)
	register(s, http.MethodPost, one+"/{move}", "moveHunt", "Start, pause, stop or archive a hunt", s.moveHunt)
	register(s, http.MethodDelete, one, "deleteHunt", "Delete a hunt with its results", s.deleteHunt)
	get(s, one+"/clients", "huntClients", "List the clients of a hunt", s.huntClients)
	register(s, http.MethodPost, one+"/clients", "addToHunt", "Add clients to a hunt by hand", s.addToHunt)
	register(s, http.MethodPost, one+"/rerun", "rerunHunt", "Run a hunt again on clients that erred", s.rerunHunt)
	get(s, one+"/timeline", "huntTimeline", "How a hunt's sets of clients grew", s.huntTimeline)
	get(s, "/clients/{client}/hunts", "huntsOfClient", "List the hunts that a client is in", s.huntsOfClient)
	s.mux.HandleFunc("GET "+prefix+one+"/events", s.huntEvents)
	s.describeStream(prefix+one+"/events", "huntEvents", "Follow one hunt", "Server-sent events named hunt; the data of each is a Hunt.", "hunt")
}

func (s *Server) createHunt(ctx context.Context, in *struct {
	Writing
	Body HuntRequest
},
) (*body[Hunted], error) {
	who, err := s.may(ctx, users.StartHunt)
	if err != nil {
		return nil, err
	}
	made, err := s.CreateHunt(ctx, who, in.Body, in.Writing)
	if err != nil {
		return nil, err
	}
	return &body[Hunted]{*made}, nil
}

// CreateHunt makes a hunt in the name of who; queries use it, too.
func (s *Server) CreateHunt(ctx context.Context, who *Principal, r HuntRequest, w Writing) (*Hunted, error) {
	if index, known, err := s.earlier(ctx, who, w); known {
		if err != nil {
			return nil, err
		}
		return s.huntedBy(index)
	}
	wish, err := s.compileFor(ctx, who, launch{permission: users.StartHunt, kind: artifacts.Client, where: "in a hunt"}, r.CollectRequest)
	if err != nil {
		return nil, err
	}
	wish.Creator = who.Name
	conditions, err := s.huntConditions(who, &r.HuntTargets)
	if err != nil {
		return nil, err
	}
	added, err := parseClients(r.Clients)
	if err != nil {
		return nil, err
	}
	tags, err := hunts.ParseTags(r.Tags)
	if err != nil {
		return nil, err
	}
	m, hunt, err := s.o.Hunts.PlanCreate(hunts.Create{
		Org: ids.RootOrg, Settings: hunts.Settings{Description: r.Description, Rate: r.Rate, Limit: r.Limit, Expires: r.Expires, Tags: tags},
		Collect: *wish, Conditions: conditions, Clients: added, Start: r.Start,
	}, time.Now())
	if err != nil {
		return nil, err
	}
	c := &change{m, "hunt.create", hunt.String(), map[string]string{
		"artifacts": artifactNames(wish.Artifacts), "started": strconv.FormatBool(r.Start),
	}}
	index, err := s.propose(ctx, who, w, c)
	if err != nil {
		return nil, err
	}
	if h, err := s.o.Hunts.Hunt(hunts.Key{Org: ids.RootOrg, Hunt: hunt}); w.Key != "" && (err != nil || h.Index != index) {
		return s.huntedBy(index) // the same request came at the same time, and was first
	}
	s.Audit(ctx, who, c.operation, c.object, c.details)
	return &Hunted{Hunt: hunt.String(), Index: index}, nil
}

// huntedBy is the hunt that a ledger entry made: what a wish that came a second time is
// answered with.
func (s *Server) huntedBy(index uint64) (*Hunted, error) {
	for _, h := range s.o.Hunts.List(ids.RootOrg) {
		if h.Index == index {
			return &Hunted{Hunt: h.Hunt.String(), Index: index}, nil
		}
	}
	return nil, fmt.Errorf("the hunt was made and is deleted: %w", hunts.ErrNotFound)
}

// huntConditions checks and compiles what a hunt asks of clients. Any VQL for clients is
// as good as an artifact, any for the server as good as a query.
func (s *Server) huntConditions(who *Principal, t *HuntTargets) (hunts.Conditions, error) {
	c := t.conditions()
	if c.Filter != "" {
		if err := s.check(who, users.AnyQuery); err != nil {
			return c, fmt.Errorf("filter: %w", err)
		}
		if err := hunts.CheckFilter(c.Filter); err != nil {
			return c, err
		}
	}
	if c.Condition == "" {
		return c, nil
	}
	if err := s.check(who, users.ArtifactWriter); err != nil {
		return c, fmt.Errorf("condition: %w", err)
	}
	request, err := s.o.Artifacts.Repository(ids.RootOrg).CompileQuery("Hunt.Condition", c.Condition)
	if err != nil {
		return c, fmt.Errorf("condition: %w", err)
	}
	c.ConditionRequest, err = flows.PackRequest(s.flowRequest(request))
	return c, err
}
