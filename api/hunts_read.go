package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/users"
)

// HuntEstimate is how many clients a hunt would find now.
type HuntEstimate struct {
	Matching int  `json:"matching" doc:"clients that fit labels and system"`
	Online   int  `json:"online" doc:"of these, connected now; what a condition or filter will say of them is not known"`
	AsOf     AsOf `json:"asOf"`
}

func (s *Server) estimateHunt(ctx context.Context, in *struct {
	IncludeLabels []string `query:"include_labels" doc:"clients that have one of them, by commas"`
	ExcludeLabels []string `query:"exclude_labels" doc:"but none of these, by commas"`
	OS            string   `query:"os" enum:"windows,linux,darwin,freebsd"`
},
) (*body[HuntEstimate], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	c := hunts.Conditions{Include: in.IncludeLabels, Exclude: in.ExcludeLabels, OS: in.OS}
	found, err := s.o.Hunts.Estimate(ids.RootOrg, c, time.Now())
	if err != nil {
		return nil, err
	}
	return &body[HuntEstimate]{HuntEstimate{found.Matching, found.Online, s.asOf()}}, nil
}

func (s *Server) listHunts(ctx context.Context, in *struct {
	State  string `query:"state" enum:"draft,running,paused,stopped,expired,archived" doc:"only hunts in this state; left out: all"`
	Tag    string `query:"tag" doc:"only hunts with this tag"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor"`
},
) (*body[List[Hunt]], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	before, err := parseIndex(in.Cursor)
	if err != nil {
		return nil, err
	}
	out := List[Hunt]{Items: []Hunt{}, AsOf: s.asOf()}
	all := s.o.Hunts.List(ids.RootOrg)
	all = slices.DeleteFunc(all, func(h *hunts.Hunt) bool {
		return in.State != "" && string(h.State) != in.State || in.Tag != "" && !h.Tags.Has(in.Tag)
	})
	out.Total = int64(len(all))
	var last uint64
	for _, h := range all {
		if before != 0 && h.Index >= before {
			continue
		}
		if len(out.Items) == in.Limit {
			out.Next = strconv.FormatUint(last, 10)
			break
		}
		out.Items = append(out.Items, showHunt(h))
		last = h.Index
	}
	return &body[List[Hunt]]{out}, nil
}

func parseIndex(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("cursor %.40q: %w", text, filestore.ErrBadCursor)
	}
	return n, nil
}

// readHunt checks that the caller may read, and finds the hunt.
func (s *Server) readHunt(ctx context.Context, p HuntPath) (*hunts.Hunt, error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	key, err := p.key()
	if err != nil {
		return nil, err
	}
	return s.o.Hunts.Hunt(key)
}

func (s *Server) showHunt(ctx context.Context, in *struct{ HuntPath }) (*body[Hunt], error) {
	h, err := s.readHunt(ctx, in.HuntPath)
	if err != nil {
		return nil, err
	}
	return &body[Hunt]{showHunt(h)}, nil
}

// HuntClient is a client of a hunt.
type HuntClient struct {
	Client   string     `json:"client_id" doc:"empty: it was deleted"`
	Hostname string     `json:"hostname,omitempty"`
	OS       string     `json:"os,omitempty"`
	Set      string     `json:"set" enum:"pending,running,completed,errored,declined,removed,with_results"`
	Attempt  int        `json:"attempt,omitempty" doc:"0: the first"`
	Flow     string     `json:"flow_id,omitempty" doc:"of the newest attempt, once it was admitted"`
	State    string     `json:"state,omitempty" doc:"of that flow"`
	Error    string     `json:"error,omitempty"`
	Rows     int64      `json:"rows"`
	Uploads  int64      `json:"uploads"`
	Bytes    int64      `json:"upload_bytes"`
	Created  *time.Time `json:"created,omitempty" doc:"when it was admitted"`
	Ended    *time.Time `json:"ended,omitempty"`
	Seconds  float64    `json:"duration_seconds,omitempty"`
	CPU      *int64     `json:"cpu_ns,omitempty" doc:"processor time of that flow's queries in nanoseconds; left out: the agent told none"`
}

func (s *Server) showMember(key hunts.Key, set hunts.Set, m hunts.Member) HuntClient {
	out := HuntClient{Client: m.Client.String(), Set: set.String(), Attempt: m.Attempt}
	if m.Client.IsZero() {
		return out
	}
	if record, err := s.o.Clients.Lookup(key.Org, m.Client); err == nil {
		out.Hostname, out.OS = record.Hostname, record.System
	}
	f, err := s.o.Flows.Flow(flows.Key{Org: key.Org, Client: m.Client, Flow: m.Flow})
	if err != nil {
		return out // it waits, or its flow was deleted
	}
	out.Flow, out.State, out.Error, out.Rows = f.Flow.String(), string(f.State), f.Error, f.Rows()
	out.Uploads, out.Bytes, out.Seconds = f.Uploads.Len(), f.UploadBytes(), f.Duration.Seconds()
	out.CPU = f.CPU.Nanoseconds()
	out.Created, out.Ended = timeOrNil(f.Created), timeOrNil(f.Ended)
	return out
}

// membersOf are the sets that a client is in one of.
var membersOf = []hunts.Set{
	hunts.PendingClients, hunts.RunningClients, hunts.CompletedClients, hunts.ErroredClients, hunts.DeclinedClients, hunts.RemovedClients,
}

func (s *Server) huntClients(ctx context.Context, in *struct {
	HuntPath
	Set    string `query:"set" enum:"pending,running,completed,errored,declined,removed,with_results" doc:"left out: all clients that the hunt knows, set by set"`
	Limit  int    `query:"limit" minimum:"1" maximum:"10000" default:"200"`
	Cursor string `query:"cursor"`
},
) (*body[List[HuntClient]], error) {
	h, err := s.readHunt(ctx, in.HuntPath)
	if err != nil {
		return nil, err
	}
	if h.Origin != nil {
		return s.clientsThere(ctx, h, in.Set, in.Cursor, in.Limit)
	}
	which := membersOf
	if set, named := hunts.ParseSet(in.Set); named {
		which = []hunts.Set{set}
	}
	out := List[HuntClient]{Items: []HuntClient{}, AsOf: s.asOf()}
	for _, set := range which {
		out.Total += int64(h.Counts[set])
	}
	first, after, err := parseMember(in.Cursor, which)
	if err != nil {
		return nil, err
	}
	for i := first; i < len(which); i, after = i+1, 0 {
		room := in.Limit - len(out.Items)
		if room == 0 {
			out.Next = fmt.Sprintf("%s.0", which[i])
			break
		}
		page, next, err := s.o.Hunts.Clients(h.Key, which[i], after, room)
		if err != nil {
			return nil, err
		}
		for _, m := range page {
			out.Items = append(out.Items, s.showMember(h.Key, which[i], m))
		}
		if next != 0 {
			out.Next = fmt.Sprintf("%s.%d", which[i], next)
			break
		}
	}
	return &body[List[HuntClient]]{out}, nil
}

// parseMember reads where a page of clients begins: a set's name and an ordinal.
func parseMember(cursor string, which []hunts.Set) (first int, after uint32, err error) {
	if cursor == "" {
		return 0, 0, nil
	}
	name, number, _ := strings.Cut(cursor, ".")
	ordinal, err := strconv.ParseUint(number, 10, 32)
	set, named := hunts.ParseSet(name)
	if first = slices.Index(which, set); err != nil || !named || first < 0 {
		return 0, 0, fmt.Errorf("cursor %.40q: %w", cursor, filestore.ErrBadCursor)
	}
	return first, uint32(ordinal), nil
}

// HuntOfClient is a hunt that a client is in.
type HuntOfClient struct {
	Hunt        string   `json:"hunt_id"`
	Description string   `json:"description"`
	State       string   `json:"state" doc:"of the hunt"`
	Artifacts   []string `json:"artifacts"`
	Set         string   `json:"set"`
	Flow        string   `json:"flow_id,omitempty"`
}

func (s *Server) huntsOfClient(ctx context.Context, in *struct{ ClientPath }) (*body[List[HuntOfClient]], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	client, err := ids.ParseClient(in.Client)
	if err != nil {
		return nil, err
	}
	if _, err := s.o.Clients.Lookup(ids.RootOrg, client); err != nil {
		return nil, err
	}
	out := List[HuntOfClient]{Items: []HuntOfClient{}, AsOf: s.asOf()}
	of := s.o.Hunts.Of(ids.RootOrg, client)
	for _, h := range s.o.Hunts.List(ids.RootOrg) {
		set, in := of[h.Hunt]
		if !in {
			continue
		}
		one := HuntOfClient{Hunt: h.Hunt.String(), Description: h.Description, State: string(h.State), Set: set.String()}
		for _, a := range h.Artifacts {
			one.Artifacts = append(one.Artifacts, a.Name)
		}
		if m, _, member := s.o.Hunts.Member(h.Key, client); member && set != hunts.PendingClients && set != hunts.DeclinedClients {
			one.Flow = m.Flow.String()
		}
		out.Items = append(out.Items, one)
	}
	out.Total = int64(len(out.Items))
	return &body[List[HuntOfClient]]{out}, nil
}

// HuntBucket is how many clients came into each set, or left it, in some minutes.
type HuntBucket struct {
	Time   time.Time        `json:"time"`
	Change map[string]int32 `json:"change"`
}

// HuntTimeline is the curve of a hunt.
type HuntTimeline struct {
	Minutes int64        `json:"minutes" doc:"that each bucket has"`
	Buckets []HuntBucket `json:"buckets" nullable:"false" doc:"adding them up gives the sizes at each time"`
	AsOf    AsOf         `json:"asOf"`
}

func (s *Server) huntTimeline(ctx context.Context, in *struct{ HuntPath }) (*body[HuntTimeline], error) {
	h, err := s.readHunt(ctx, in.HuntPath)
	if err != nil {
		return nil, err
	}
	buckets, width, err := s.o.Hunts.Timeline(h.Key)
	if err != nil {
		return nil, err
	}
	out := HuntTimeline{Minutes: width, Buckets: make([]HuntBucket, len(buckets)), AsOf: s.asOf()}
	for i, b := range buckets {
		out.Buckets[i] = HuntBucket{time.Unix(b.Minute*60, 0).UTC(), map[string]int32{}}
		for set, n := range b.Change {
			if n != 0 {
				out.Buckets[i].Change[hunts.Set(set).String()] = n
			}
		}
	}
	return &body[HuntTimeline]{out}, nil
}

// huntEvents streams one hunt as server-sent events, at most four a second, a comment
// each 15 s, until it is deleted or the caller leaves.
func (s *Server) huntEvents(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	at := HuntPath{r.PathValue("hunt")}
	if _, err := s.readHunt(ctx, at); err != nil {
		writeProblem(w, s.fail(err))
		return
	}
	beginEvents(w)
	beat := time.NewTicker(15 * time.Second)
	defer beat.Stop()
	pace := time.NewTicker(250 * time.Millisecond)
	defer pace.Stop()
	var last []byte
	for {
		h, err := s.readHunt(ctx, at)
		if err != nil {
			return // deleted, or the caller may not read any more
		}
		text, err := json.Marshal(showHunt(h))
		if err != nil {
			s.log.Error("hunt cannot be shown", "hunt", at.Hunt, "err", err)
			return
		}
		if string(text) != string(last) {
			last = text
			if _, err := fmt.Fprintf(w, "event: hunt\nid: %d\ndata: %s\n\n", s.asOf().Index, text); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
		}
		if !waitEvent(ctx, s, w, pace.C, beat.C) {
			return
		}
	}
}
