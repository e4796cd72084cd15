package hunts

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
)

// applier is Apply at one entry, under the lock.
type applier struct {
	r     *Room
	org   ids.Org
	index uint64
	at    time.Time
	by    string
	rules bool // what the foreman matches has changed

	created []Creation
}

// from lists, by the state a hunt is to be moved to, those it may be moved from.
var from = map[State][]State{
	Running:  {Draft, Paused, Stopped, Expired},
	Paused:   {Running},
	Stopped:  {Running, Paused, Archived},
	Archived: {Draft, Stopped, Expired},
	Deleted:  {Draft, Stopped, Expired, Archived},
}

var stateNames = map[buspb.HuntState]State{
	buspb.HuntState_HUNT_STATE_DRAFT: Draft, buspb.HuntState_HUNT_STATE_RUNNING: Running,
	buspb.HuntState_HUNT_STATE_PAUSED: Paused, buspb.HuntState_HUNT_STATE_STOPPED: Stopped,
	buspb.HuntState_HUNT_STATE_EXPIRED: Expired, buspb.HuntState_HUNT_STATE_ARCHIVED: Archived,
	buspb.HuntState_HUNT_STATE_DELETED: Deleted,
}

// check says whether a change is refused. Facts and expiry are not.
func (a *applier) check(c *buspb.HuntChange) error {
	id, err := ids.ParseHunt(c.GetHunt())
	if err != nil {
		return fmt.Errorf("change hunt: %w", err)
	}
	key := Key{a.org, id}
	if create := c.GetCreate(); create != nil {
		return a.checkCreate(key, create)
	}
	if in := c.GetImport(); in != nil {
		return a.checkImport(key, in)
	}
	h := a.r.find(key)
	switch c.GetChange().(type) {
	case *buspb.HuntChange_Nominate, *buspb.HuntChange_Decline, *buspb.HuntChange_Expire:
		return nil
	case nil:
		return fmt.Errorf("change of hunt %s of an unknown kind: %w", id, ErrInvalid)
	}
	if h == nil {
		return fmt.Errorf("change hunt %s: %w", id, ErrNotFound)
	}
	return a.checkKnown(h, c)
}

func (a *applier) checkKnown(h *hunt, change *buspb.HuntChange) error {
	switch c := change.GetChange().(type) {
	case *buspb.HuntChange_Edit:
		return h.checkEdit(c.Edit)
	case *buspb.HuntChange_Move:
		return h.checkMove(c.Move, a.at)
	case *buspb.HuntChange_Add:
		if err := h.permits("add clients to", Draft, Running, Paused); err != nil {
			return err
		}
		return a.checkClients(h.key, c.Add.GetClients())
	case *buspb.HuntChange_Rerun:
		return h.permits("run again clients of", Running, Paused, Stopped, Expired)
	case *buspb.HuntChange_Forget:
		if h.sums.Flows > 0 {
			return fmt.Errorf("forget hunt %s: %d flows are left: %w", h.key.Hunt, h.sums.Flows, ErrState)
		}
		return h.permits("forget", Deleted)
	}
	return nil
}

func (h *hunt) permits(doing string, in ...State) error {
	if !slices.Contains(in, h.life.State) {
		return fmt.Errorf("%s hunt %s, which is %s: %w", doing, h.key.Hunt, h.life.State, ErrState)
	}
	return nil
}

// used reports whether a hunt has, or had not long ago, this id.
func (a *applier) used(key Key) bool {
	o := a.r.orgs[a.org]
	if o == nil {
		return false
	}
	_, gone := o.deleted[key.Hunt]
	return gone || o.hunts[key.Hunt] != nil
}

func (a *applier) checkCreate(key Key, c *buspb.HuntCreate) error {
	if a.used(key) {
		return fmt.Errorf("create hunt %s: %w", key.Hunt, ErrExists)
	}
	if !key.Hunt.Plain() || c.ClientsPerMinute < 0 || c.ClientsPerMinute > maxRate || c.ClientLimit < 0 {
		return fmt.Errorf("create hunt %s: %w", key.Hunt, ErrInvalid)
	}
	if _, err := readSpec(c.Spec); err != nil {
		return fmt.Errorf("create hunt %s: %w", key.Hunt, err)
	}
	return a.checkClients(key, c.Clients)
}

func (a *applier) checkClients(key Key, clients []string) error {
	for _, text := range clients {
		if _, ok := a.ordinal(text); !ok {
			return fmt.Errorf("add client %.40q to hunt %s: no such client: %w", text, key.Hunt, ErrInvalid)
		}
	}
	return nil
}

func (h *hunt) checkEdit(e *buspb.HuntEdit) error {
	if h.life.State == Archived || h.life.State == Deleted {
		return h.permits("change")
	}
	if r := e.GetClientsPerMinute(); r < 0 || r > maxRate {
		return fmt.Errorf("change hunt %s: %d clients per minute: %w", h.key.Hunt, r, ErrInvalid)
	}
	limit := e.GetClientLimit()
	if joined := h.m.joined(); limit < 0 || limit > 0 && limit < int64(joined) {
		return fmt.Errorf("change hunt %s: limit of %d clients, but %d take part: %w", h.key.Hunt, limit, joined, ErrLimit)
	}
	return nil
}

func (h *hunt) checkMove(m *buspb.HuntMove, at time.Time) error {
	to := stateNames[m.GetTo()]
	if h.def.Origin != nil && to != Deleted {
		return fmt.Errorf("move hunt %s to %s: it ran elsewhere, and can only be deleted: %w", h.key.Hunt, to, ErrState)
	}
	if to == Stopped && m.CancelFlows {
		return h.permits("stop", Running, Paused, Stopped, Expired, Archived)
	}
	if err := h.permits("move to "+string(to), from[to]...); err != nil {
		return err
	}
	if to == Running && !h.set.Expires.After(at) {
		return fmt.Errorf("start hunt %s: it expired at %s: %w", h.key.Hunt, h.set.Expires.Format(time.RFC3339), ErrState)
	}
	return nil
}

// ordinal finds a client by the text of its id.
func (a *applier) ordinal(text string) (uint32, bool) {
	client, err := ids.ParseClient(text)
	if err != nil {
		return 0, false
	}
	return a.r.o.Clients.Ordinal(a.org, client)
}

func (a *applier) change(c *buspb.HuntChange) {
	id, _ := ids.ParseHunt(c.Hunt) // checked before
	key := Key{a.org, id}
	if create := c.GetCreate(); create != nil {
		a.create(key, create)
		return
	}
	if in := c.GetImport(); in != nil {
		a.bring(key, in)
		return
	}
	h := a.r.find(key)
	if h == nil { // facts about a hunt that is gone; created and forgotten in one entry
		return
	}
	a.r.dirty[key] = struct{}{}
	switch c := c.GetChange().(type) {
	case *buspb.HuntChange_Edit:
		a.edit(h, c.Edit)
	case *buspb.HuntChange_Move:
		a.move(h, stateNames[c.Move.To], c.Move.CancelFlows)
	case *buspb.HuntChange_Nominate:
		a.nominate(h, c.Nominate.GetClients())
	case *buspb.HuntChange_Decline:
		a.decline(h, c.Decline.GetClients())
	case *buspb.HuntChange_Add:
		a.add(h, c.Add.GetClients())
	case *buspb.HuntChange_Rerun:
		a.rerun(h, c.Rerun.GetClients())
	case *buspb.HuntChange_Expire:
		a.expire(h)
	case *buspb.HuntChange_Forget:
		a.forget(h)
	}
}

func (a *applier) create(key Key, c *buspb.HuntCreate) {
	spec, err := readSpec(c.Spec)
	o := a.r.org(a.org)
	if err != nil || o.hunts[key.Hunt] != nil { // twice in one entry
		return
	}
	h := &hunt{
		key: key, m: newMembers(), def: defineBy(c.Creator, spec, c.Spec, conditionsOf(c.Conditions)),
		set:  Settings{c.Description, c.ClientsPerMinute, c.ClientLimit, micros.Time(c.Expires), tagsOf(c.Tags)},
		life: Life{State: Draft, Index: a.index, Created: a.at, MovedBy: a.by},
	}
	a.enter(o, h)
	a.created = append(a.created, Creation{key, h.def, h.set, a.index, a.at})
	a.add(h, c.Clients)
	if c.Start && h.set.Expires.After(a.at) {
		a.move(h, Running, false)
	}
}

// enter lets a new hunt in, and forgets deleted ones that were remembered for long
// enough.
func (a *applier) enter(o *orgHunts, h *hunt) {
	o.hunts[h.key.Hunt] = h
	for gone, d := range o.deleted {
		if a.at.UnixMicro()-d.at >= tombstoneLife.Microseconds() {
			delete(o.deleted, gone)
		}
	}
	a.r.dirty[h.key] = struct{}{}
}

func conditionsOf(x *buspb.HuntConditions) Conditions {
	return Conditions{
		x.GetIncludeLabels(), x.GetExcludeLabels(), x.GetOs(), x.GetOnlyAdded(), x.GetCondition(), x.GetConditionRequest(), x.GetFilter(),
	}
}

// defineBy makes the definition of a spec that was read.
func defineBy(creator string, spec *buspb.FlowSpec, raw []byte, c Conditions) *Definition {
	d := &Definition{Creator: creator, Urgent: spec.Urgent, Conditions: c, spec: raw}
	for _, art := range spec.Artifacts {
		one := flows.Artifact{Name: art.Name}
		for _, p := range art.Parameters {
			one.Parameters = append(one.Parameters, flows.Parameter{Name: p.Name, Value: p.Value})
		}
		d.Artifacts = append(d.Artifacts, one)
	}
	for _, name := range spec.Names {
		d.Results = append(d.Results, name.Name)
	}
	slices.Sort(d.Results)
	d.Results = slices.Compact(d.Results)
	l := spec.Limits
	d.Limits = flows.Limits{
		Rows: l.GetRows(), RowBytes: l.GetRowBytes(), Uploads: l.GetUploads(), UploadBytes: l.GetUploadBytes(), Logs: l.GetLogs(),
	}
	return d
}

func readSpec(raw []byte) (*buspb.FlowSpec, error) {
	spec, err := parseSpec(raw)
	if err == nil && len(spec.Request) == 0 {
		err = fmt.Errorf("no request: %w", ErrInvalid)
	}
	return spec, err
}

func parseSpec(raw []byte) (*buspb.FlowSpec, error) {
	var spec buspb.FlowSpec
	if err := proto.Unmarshal(raw, &spec); err != nil {
		return nil, fmt.Errorf("spec cannot be read: %w: %w", ErrInvalid, err)
	}
	return &spec, nil
}

func (a *applier) edit(h *hunt, e *buspb.HuntEdit) {
	if e.Description != nil {
		h.set.Description = *e.Description
	}
	if e.Tags != nil {
		h.set.Tags = tagsOf(e.Tags.Tags)
	}
	if e.ClientLimit != nil {
		h.set.Limit = *e.ClientLimit
	}
	if e.Expires != nil {
		h.set.Expires = micros.Time(*e.Expires)
	}
	if e.ClientsPerMinute != nil {
		h.pace.change(h.set.Rate, *e.ClientsPerMinute, a.at.UnixMicro())
		h.set.Rate = *e.ClientsPerMinute
	}
}

func (a *applier) move(h *hunt, to State, cancel bool) {
	switch to {
	case Running:
		h.life.Started = a.at
	case Stopped, Expired:
		if h.life.State == Running || h.life.State == Paused {
			h.life.Ended = a.at
		}
	}
	h.life.State, h.life.MovedBy = to, a.by
	h.life.CancelFlows = cancel || to == Deleted || h.life.CancelFlows && to != Running
	a.rules = true
}

// nominate takes in a foreman's finding. A client that the hunt has already stays
// where it is.
func (a *applier) nominate(h *hunt, clients []string) {
	if h.permits("", Running, Paused) != nil {
		return
	}
	for _, text := range clients {
		ordinal, ok := a.ordinal(text)
		if s := h.m.where(ordinal); ok && (s == nowhere || s == DeclinedClients) {
			a.r.move(h, a.at, ordinal, PendingClients)
		}
	}
}

func (a *applier) decline(h *hunt, clients []string) {
	if h.permits("", Running, Paused) != nil {
		return
	}
	for _, text := range clients {
		if ordinal, ok := a.ordinal(text); ok && h.m.where(ordinal) == nowhere {
			a.r.move(h, a.at, ordinal, DeclinedClients)
		}
	}
}

// add takes clients whatever the conditions say.
func (a *applier) add(h *hunt, clients []string) {
	for _, text := range clients {
		ordinal, ok := a.ordinal(text)
		if !ok {
			continue
		}
		switch h.m.where(ordinal) {
		case nowhere, DeclinedClients:
			a.r.move(h, a.at, ordinal, PendingClients)
		case RemovedClients:
			a.again(h, ordinal)
		}
	}
}

// rerun lets clients that erred take part once more.
func (a *applier) rerun(h *hunt, clients []string) {
	if len(clients) == 0 {
		for _, ordinal := range h.m.sets[ErroredClients].ToArray() {
			a.again(h, ordinal)
		}
		return
	}
	for _, text := range clients {
		if ordinal, ok := a.ordinal(text); ok && h.m.where(ordinal) == ErroredClients {
			a.again(h, ordinal)
		}
	}
}

// again makes a client pending for its next attempt. One that was deleted, or had
// all attempts there are, stays where it is.
func (a *applier) again(h *hunt, ordinal uint32) {
	next := h.m.attempt(ordinal) + 1
	if _, there := a.r.o.Clients.ByOrdinal(a.org, ordinal); !there || next > ids.MaxAttempt {
		return
	}
	m := a.r.edit(h)
	m.setAttempt(ordinal, next)
	a.r.move(h, a.at, ordinal, PendingClients)
	m.results(minuteOf(a.at), ordinal, false)
}

func (a *applier) expire(h *hunt) {
	if h.permits("", Running, Paused) == nil && !h.set.Expires.After(a.at) {
		a.move(h, Expired, false)
	}
}

func (a *applier) forget(h *hunt) {
	o := a.r.org(a.org)
	delete(o.hunts, h.key.Hunt)
	delete(o.declining, h)
	o.deleted[h.key.Hunt] = tombstone{a.at.UnixMicro(), a.index, h.def.Origin != nil}
	a.rules = true
}
