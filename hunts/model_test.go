package hunts_test

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/proto/buspb"
)

// A model of plain maps says what hunts must be like after any operations, whoever
// leads and however often a node begins with a snapshot.

const modelClients = 4

type (
	modelFlow struct {
		person int // who ran it
		state  hunts.Set
		rows   int64
		cpu    *int64 // nil: not told
		from   string // the collection that it is a copy of
	}
	modelMember struct {
		set     hunts.Set
		attempt int
		copy    string // the flow of a collection that was added, if that is the newest
	}
	modelHunt struct {
		state   buspb.HuntState
		limit   int64
		members map[int]*modelMember // by person
		flows   map[string]*modelFlow
	}
	model struct {
		hunts   map[string]*modelHunt
		persons map[string]int // client id -> who has it now
		people  int
		used    map[string]bool // flow ids that a client had
	}
)

func flowKey(client, flow string) string { return client + " " + flow }

// apply is what an entry does to the model; false: it must be refused.
func (m *model) apply(mutation *buspb.Mutation) bool {
	switch mutation.Kind {
	case hunts.Kind:
		var body buspb.HuntsBody
		if err := proto.Unmarshal(mutation.Body, &body); err != nil {
			return false
		}
		return m.change(body.Changes[0])
	case flows.Kind:
		var body buspb.FlowsBody
		if err := proto.Unmarshal(mutation.Body, &body); err != nil {
			return false
		}
		for _, dry := range []bool{true, false} {
			for _, c := range body.Changes {
				if !m.flow(c, dry) {
					return false
				}
			}
		}
	}
	return true
}

func (m *model) change(c *buspb.HuntChange) bool {
	if create := c.GetCreate(); create != nil {
		h := &modelHunt{state: buspb.HuntState_HUNT_STATE_DRAFT, limit: create.ClientLimit, members: map[int]*modelMember{}, flows: map[string]*modelFlow{}}
		m.hunts[c.Hunt] = h
		m.put(h, create.Clients, hunts.PendingClients, false)
		if create.Start {
			h.state = buspb.HuntState_HUNT_STATE_RUNNING
		}
		return true
	}
	hunt, h := c.Hunt, m.hunts[c.Hunt]
	active := h != nil && (h.state == buspb.HuntState_HUNT_STATE_RUNNING || h.state == buspb.HuntState_HUNT_STATE_PAUSED)
	switch c := c.Change.(type) {
	case *buspb.HuntChange_Edit:
		if h == nil || *c.Edit.ClientLimit > 0 && *c.Edit.ClientLimit < h.joined() || h.state == buspb.HuntState_HUNT_STATE_DELETED {
			return false
		}
		h.limit = *c.Edit.ClientLimit
	case *buspb.HuntChange_Move:
		return h != nil && h.move(c.Move)
	case *buspb.HuntChange_Nominate:
		if active {
			m.put(h, c.Nominate.Clients, hunts.PendingClients, false)
		}
	case *buspb.HuntChange_Decline:
		if active {
			m.put(h, c.Decline.Clients, hunts.DeclinedClients, false)
		}
	case *buspb.HuntChange_Add:
		if !active && (h == nil || h.state != buspb.HuntState_HUNT_STATE_DRAFT) {
			return false
		}
		for _, client := range c.Add.Clients {
			if _, known := m.persons[client]; !known {
				return false
			}
		}
		m.put(h, c.Add.Clients, hunts.PendingClients, true)
	case *buspb.HuntChange_Rerun:
		if !active && (h == nil || h.state != buspb.HuntState_HUNT_STATE_STOPPED) {
			return false
		}
		m.rerun(h, c.Rerun.Clients)
	case *buspb.HuntChange_Forget:
		if h == nil || h.state != buspb.HuntState_HUNT_STATE_DELETED || len(h.flows) > 0 {
			return false
		}
		delete(m.hunts, hunt)
	}
	return true
}

func (h *modelHunt) move(mv *buspb.HuntMove) bool {
	const running, paused, stopped = buspb.HuntState_HUNT_STATE_RUNNING, buspb.HuntState_HUNT_STATE_PAUSED, buspb.HuntState_HUNT_STATE_STOPPED
	const draft, deleted = buspb.HuntState_HUNT_STATE_DRAFT, buspb.HuntState_HUNT_STATE_DELETED
	var ok bool
	switch mv.To {
	case running:
		ok = h.state == draft || h.state == paused || h.state == stopped
	case paused:
		ok = h.state == running
	case stopped:
		ok = h.state == running || h.state == paused || mv.CancelFlows && h.state == stopped
	case deleted:
		ok = h.state == draft || h.state == stopped
	}
	if ok {
		h.state = mv.To
	}
	return ok
}

// put nominates, declines or adds.
func (m *model) put(h *modelHunt, clients []string, to hunts.Set, byHand bool) {
	for _, client := range clients {
		person, known := m.persons[client]
		if !known {
			continue
		}
		switch member := h.members[person]; {
		case member == nil:
			h.members[person] = &modelMember{set: to}
		case member.set == hunts.DeclinedClients:
			member.set = to
		case member.set == hunts.RemovedClients && byHand:
			member.set, member.attempt, member.copy = to, member.attempt+1, ""
		}
	}
}

func (m *model) rerun(h *modelHunt, clients []string) {
	for client, person := range m.persons {
		asked := len(clients) == 0
		for _, c := range clients {
			asked = asked || c == client
		}
		if member := h.members[person]; asked && member != nil && member.set == hunts.ErroredClients {
			member.set, member.attempt, member.copy = hunts.PendingClients, member.attempt+1, ""
		}
	}
}

func (h *modelHunt) joined() int64 {
	n := int64(0)
	for _, member := range h.members {
		if member.set != hunts.PendingClients && member.set != hunts.DeclinedClients || member.set == hunts.PendingClients && member.attempt > 0 {
			n++
		}
	}
	return n
}

func (m *model) flow(c *buspb.FlowChange, dry bool) bool {
	if s := c.GetStart(); s != nil {
		return m.start(s, dry)
	}
	if in := c.GetImport(); in != nil {
		return m.add(in, dry)
	}
	var key *buspb.FlowKey
	switch c := c.Change.(type) {
	case *buspb.FlowChange_End:
		key = c.End.Key
	case *buspb.FlowChange_Cancel:
		key = c.Cancel.Key
	case *buspb.FlowChange_Delete:
		key = c.Delete.Key
	}
	var h *modelHunt
	var f *modelFlow
	for _, other := range m.hunts {
		if found := other.flows[flowKey(key.Client, key.Flow)]; found != nil {
			h, f = other, found
		}
	}
	if c.GetDelete() != nil && (f == nil || f.state == hunts.RunningClients) {
		return false
	}
	if dry || f == nil {
		return true
	}
	switch c := c.Change.(type) {
	case *buspb.FlowChange_End:
		if f.state != hunts.RunningClients {
			return true // tests tell one end of each flow
		}
		f.rows, f.cpu = c.End.Totals.Rows, c.End.CpuNs
		if f.state = hunts.ErroredClients; c.End.Outcome == endedOK {
			f.state = hunts.CompletedClients
		}
	case *buspb.FlowChange_Cancel:
		if f.state == hunts.RunningClients {
			f.state = hunts.ErroredClients
		}
	case *buspb.FlowChange_Delete:
		delete(h.flows, flowKey(key.Client, key.Flow))
		f.state = hunts.RemovedClients
	}
	m.settle(h, f, key)
	return true
}

// settle moves the client of a flow, if it is that of its newest attempt.
func (m *model) settle(h *modelHunt, f *modelFlow, key *buspb.FlowKey) {
	member := h.members[f.person]
	if person, known := m.persons[key.Client]; !known || person != f.person {
		return
	}
	if member.set == hunts.PendingClients || member.set == hunts.RemovedClients || !member.newest(key.Flow) {
		return
	}
	member.set = f.state
}

// newest reports whether a flow is that of the newest attempt.
func (m *modelMember) newest(flow string) bool {
	if m.copy != "" || strings.HasSuffix(flow, ".L") {
		return flow == m.copy
	}
	return attemptOf(flow) == m.attempt
}

// add makes a client's collection one of a hunt's.
func (m *model) add(in *buspb.FlowImport, dry bool) bool {
	h, client := m.hunts[in.Spec.Hunt], in.End.Key.Client
	if h == nil || h.state == buspb.HuntState_HUNT_STATE_ARCHIVED || h.state == buspb.HuntState_HUNT_STATE_DELETED {
		return false
	}
	person, known := m.persons[client]
	member := h.members[person]
	fresh := member == nil || member.set == hunts.DeclinedClients || member.set == hunts.PendingClients && member.attempt == 0
	if !known || m.used[flowKey(client, in.Spec.Flow)] || dry && fresh && h.limit > 0 && h.joined() >= h.limit {
		return false
	}
	for key, f := range h.flows {
		if f.from == in.Origin.Flow && strings.HasPrefix(key, client+" ") {
			return false
		}
	}
	if member == nil {
		member = &modelMember{set: hunts.DeclinedClients}
	}
	switch member.set {
	case hunts.RunningClients, hunts.CompletedClients:
		return false
	case hunts.ErroredClients:
		if !in.Again {
			return false
		}
	}
	if dry {
		return true
	}
	f := &modelFlow{person: person, state: hunts.ErroredClients, rows: in.End.Totals.Rows, from: in.Origin.Flow, cpu: in.End.CpuNs}
	if in.End.Outcome == endedOK {
		f.state = hunts.CompletedClients
	}
	member.set, member.copy = f.state, in.Spec.Flow
	h.members[person], h.flows[flowKey(client, in.Spec.Flow)] = member, f
	m.used[flowKey(client, in.Spec.Flow)] = true
	return true
}

func attemptOf(flow string) int {
	n := 0
	if parts := strings.Split(flow, "."); len(parts) == 4 {
		_, _ = fmt.Sscan(parts[2], &n)
	}
	return n
}

func (m *model) start(s *buspb.FlowStart, dry bool) bool {
	h := m.hunts[s.Spec.Hunt]
	if h == nil || h.state != buspb.HuntState_HUNT_STATE_RUNNING {
		return false
	}
	attempt, fresh := attemptOf(s.Spec.Flow), int64(0)
	for _, client := range s.Clients {
		person, known := m.persons[client]
		member := h.members[person]
		if !known || member == nil || member.set != hunts.PendingClients || attempt < member.attempt || m.used[flowKey(client, s.Spec.Flow)] {
			return false
		}
		if member.attempt == 0 {
			fresh++
		}
		if !dry {
			member.set, member.attempt, member.copy = hunts.RunningClients, attempt, ""
			h.flows[flowKey(client, s.Spec.Flow)] = &modelFlow{person: person, state: hunts.RunningClients}
			m.used[flowKey(client, s.Spec.Flow)] = true
		}
	}
	return !dry || h.limit == 0 || h.joined()+fresh <= h.limit
}

// gone: a client was deleted.
func (m *model) gone(client string) {
	person := m.persons[client]
	delete(m.persons, client)
	for _, h := range m.hunts {
		switch member := h.members[person]; {
		case member == nil:
		case member.set == hunts.RunningClients, member.set == hunts.PendingClients && member.attempt > 0:
			member.set = hunts.ErroredClients
		case member.set == hunts.PendingClients, member.set == hunts.DeclinedClients:
			delete(h.members, person)
		}
	}
}

// forgive: something is known otherwise of a client.
func (m *model) forgive(client string) {
	for _, h := range m.hunts {
		if member := h.members[m.persons[client]]; member != nil && member.set == hunts.DeclinedClients {
			delete(h.members, m.persons[client])
		}
	}
}
