package hunts

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

const (
	maxDescription = 4 << 10  // bytes
	maxVQL         = 64 << 10 // bytes of a condition or filter
	maxQuestion    = 256 << 10
	maxLabelRunes  = 64
	maxLabels      = 100
	maxAdded       = 10_000 // clients added by one mutation

	// usualLife is how long a hunt lasts when nobody says.
	usualLife = 7 * 24 * time.Hour
)

// systems are what clients call their systems.
var systems = []string{"", "windows", "linux", "darwin", "freebsd"}

// Create is a wish for a hunt.
type Create struct {
	Org      ids.Org
	Hunt     ids.Hunt // zero: a new id
	Settings          // Expires zero: in a week

	// Collect is what runs on each client, as for a direct collection: Creator,
	// Artifacts, Request, Names, Limits, Urgent. Its other fields do not count.
	Collect    flows.Start
	Conditions Conditions
	Clients    []ids.Client // added by hand
	Start      bool         // runs at once; otherwise it is a draft
}

// PlanCreate checks a wish and returns the mutation that makes the hunt. The error
// wraps ErrInvalid or flows.ErrInvalid.
func (r *Room) PlanCreate(c Create, now time.Time) (*buspb.Mutation, ids.Hunt, error) {
	if c.Hunt.IsZero() {
		c.Hunt = ids.NewHunt(now)
	}
	if c.Expires.IsZero() {
		c.Expires = now.Add(usualLife)
	}
	m, err := planCreate(&c, now)
	if err != nil {
		return nil, ids.Hunt{}, fmt.Errorf("plan hunt %s: %w", c.Hunt, err)
	}
	return m, c.Hunt, nil
}

func planCreate(c *Create, now time.Time) (*buspb.Mutation, error) {
	if !c.Hunt.Plain() {
		return nil, fmt.Errorf("an id with dots: %w", ErrInvalid)
	}
	if err := c.Settings.check(now); err != nil {
		return nil, err
	}
	if err := c.Conditions.check(); err != nil {
		return nil, err
	}
	if len(c.Clients) > maxAdded {
		return nil, fmt.Errorf("%d clients, more than %d: %w", len(c.Clients), maxAdded, ErrInvalid)
	}
	c.Collect.Hunt = c.Hunt
	spec, err := flows.PlanSpec(c.Collect)
	if err != nil {
		return nil, err
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("serialise: %w: %w", ErrInvalid, err)
	}
	return mutation(Key{c.Org, c.Hunt}, c.Collect.Creator, &buspb.HuntChange{Change: &buspb.HuntChange_Create{Create: &buspb.HuntCreate{
		Creator: c.Collect.Creator, Description: c.Description, Spec: raw,
		ClientsPerMinute: c.Rate, ClientLimit: c.Limit, Expires: c.Expires.UnixMicro(), Start: c.Start, Clients: texts(c.Clients), Tags: c.Tags.List(),
		Conditions: c.Conditions.pack(),
	}}})
}

func (c *Conditions) pack() *buspb.HuntConditions {
	return &buspb.HuntConditions{
		IncludeLabels: c.Include, ExcludeLabels: c.Exclude, Os: c.OS, OnlyAdded: c.OnlyAdded,
		Condition: c.Condition, ConditionRequest: c.ConditionRequest, Filter: c.Filter,
	}
}

func (s *Settings) check(now time.Time) error {
	switch {
	case len(s.Description) > maxDescription || !utf8.ValidString(s.Description):
		return fmt.Errorf("description is no text of at most %d bytes: %w", maxDescription, ErrInvalid)
	case s.Rate < 0 || s.Rate > maxRate:
		return fmt.Errorf("%d clients per minute: expected 0 to %d: %w", s.Rate, maxRate, ErrInvalid)
	case s.Limit < 0:
		return fmt.Errorf("limit of %d clients: %w", s.Limit, ErrInvalid)
	case !s.Expires.After(now) || s.Expires.Year() > 9999:
		return fmt.Errorf("expires at %s: not in the future: %w", s.Expires.Format(time.RFC3339), ErrInvalid)
	}
	return nil
}

func (c *Conditions) check() error {
	if !slices.Contains(systems, c.OS) {
		return fmt.Errorf("system %.40q: expected one of %s: %w", c.OS, strings.Join(systems[1:], ", "), ErrInvalid)
	}
	for _, label := range slices.Concat(c.Include, c.Exclude) {
		if err := checkLabel(label); err != nil {
			return err
		}
	}
	if len(c.Include) > maxLabels || len(c.Exclude) > maxLabels {
		return fmt.Errorf("more than %d labels: %w", maxLabels, ErrInvalid)
	}
	for _, vql := range []string{c.Condition, c.Filter} {
		if len(vql) > maxVQL || !utf8.ValidString(vql) {
			return fmt.Errorf("condition or filter is no text of at most %d bytes: %w", maxVQL, ErrInvalid)
		}
	}
	if len(c.ConditionRequest) > maxQuestion || (c.Condition == "") != (len(c.ConditionRequest) == 0) {
		return fmt.Errorf("condition and its request of %d bytes do not belong together: %w", len(c.ConditionRequest), ErrInvalid)
	}
	return nil
}

func checkLabel(label string) error {
	bad := label == "" || strings.TrimSpace(label) != label || !utf8.ValidString(label) || utf8.RuneCountInString(label) > maxLabelRunes
	if bad || strings.ContainsFunc(label, unicode.IsControl) {
		return fmt.Errorf("label %.80q: expected 1 to %d printable characters: %w", label, maxLabelRunes, ErrInvalid)
	}
	return nil
}

// Edit is a wish to change what may change of a hunt; nil leaves it as it is.
type Edit struct {
	Description *string
	Rate        *int64
	Limit       *int64
	Expires     *time.Time
	Tags        *[]string
}

// PlanEdit returns the mutation that changes a hunt's settings. A limit below the
// number of clients that take part already is ErrLimit.
func (r *Room) PlanEdit(key Key, e Edit, principal string, now time.Time) (*buspb.Mutation, error) {
	edit := &buspb.HuntEdit{Description: e.Description, ClientsPerMinute: e.Rate, ClientLimit: e.Limit}
	wanted := Settings{Expires: now.Add(usualLife)}
	assign(&wanted.Description, e.Description)
	assign(&wanted.Rate, e.Rate)
	assign(&wanted.Limit, e.Limit)
	if assign(&wanted.Expires, e.Expires); e.Expires != nil {
		edit.Expires = proto.Int64(e.Expires.UnixMicro())
	}
	err := wanted.check(now)
	if err == nil && e.Tags != nil {
		var tags Tags
		tags, err = ParseTags(*e.Tags)
		edit.Tags = &buspb.HuntTags{Tags: tags.List()}
	}
	if err != nil {
		return nil, fmt.Errorf("plan change of hunt %s: %w", key.Hunt, err)
	}
	return r.plan(key, principal, now, &buspb.HuntChange{Change: &buspb.HuntChange_Edit{Edit: edit}})
}

func assign[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// PlanStart returns the mutation that lets a hunt run: a draft, or again after it
// was paused, stopped or has expired and was extended.
func (r *Room) PlanStart(key Key, principal string, now time.Time) (*buspb.Mutation, error) {
	return r.planMove(key, buspb.HuntState_HUNT_STATE_RUNNING, false, principal, now)
}

// PlanPause returns the mutation that admits nobody for a while.
func (r *Room) PlanPause(key Key, principal string, now time.Time) (*buspb.Mutation, error) {
	return r.planMove(key, buspb.HuntState_HUNT_STATE_PAUSED, false, principal, now)
}

// PlanStop returns the mutation that ends a hunt, or takes it out of the archive.
// With cancel what runs on clients is cancelled too.
func (r *Room) PlanStop(key Key, cancel bool, principal string, now time.Time) (*buspb.Mutation, error) {
	return r.planMove(key, buspb.HuntState_HUNT_STATE_STOPPED, cancel, principal, now)
}

// PlanArchive returns the mutation that puts a hunt away that does not run.
func (r *Room) PlanArchive(key Key, principal string, now time.Time) (*buspb.Mutation, error) {
	return r.planMove(key, buspb.HuntState_HUNT_STATE_ARCHIVED, false, principal, now)
}

// PlanDelete returns the mutation that deletes a hunt that does not run. The manager
// then cancels and deletes its flows, and forgets it in the end.
func (r *Room) PlanDelete(key Key, principal string, now time.Time) (*buspb.Mutation, error) {
	return r.planMove(key, buspb.HuntState_HUNT_STATE_DELETED, false, principal, now)
}

func (r *Room) planMove(key Key, to buspb.HuntState, cancel bool, principal string, now time.Time) (*buspb.Mutation, error) {
	move := &buspb.HuntMove{To: to, CancelFlows: cancel}
	return r.plan(key, principal, now, &buspb.HuntChange{Change: &buspb.HuntChange_Move{Move: move}})
}

// PlanAdd returns the mutation that adds clients whatever the conditions say.
func (r *Room) PlanAdd(key Key, clients []ids.Client, principal string, now time.Time) (*buspb.Mutation, error) {
	if n := len(clients); n == 0 || n > maxAdded {
		return nil, fmt.Errorf("add %d clients to hunt %s: %w", n, key.Hunt, ErrInvalid)
	}
	return r.plan(key, principal, now, &buspb.HuntChange{Change: &buspb.HuntChange_Add{Add: &buspb.HuntClients{Clients: texts(clients)}}})
}

// PlanRerun returns the mutation that lets clients that erred take part once more,
// without any given: all of them.
func (r *Room) PlanRerun(key Key, clients []ids.Client, principal string, now time.Time) (*buspb.Mutation, error) {
	if n := len(clients); n > maxAdded {
		return nil, fmt.Errorf("run hunt %s again on %d clients: %w", key.Hunt, n, ErrInvalid)
	}
	return r.plan(key, principal, now, &buspb.HuntChange{Change: &buspb.HuntChange_Rerun{Rerun: &buspb.HuntClients{Clients: texts(clients)}}})
}

// plan makes a mutation of a change that would not be refused now.
func (r *Room) plan(key Key, principal string, now time.Time, c *buspb.HuntChange) (*buspb.Mutation, error) {
	m, err := mutation(key, principal, c)
	if err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	a := applier{r: r, org: key.Org, at: now}
	if err := a.check(c); err != nil {
		return nil, err
	}
	return m, nil
}

// PlanNominate returns the facts that a hunt wants clients, in batches. Telling them
// again, or of clients that the hunt has, does no harm.
func PlanNominate(key Key, clients []ids.Client) ([]*buspb.Mutation, error) {
	return planFacts(key, clients, func(c *buspb.HuntClients) *buspb.HuntChange {
		return &buspb.HuntChange{Change: &buspb.HuntChange_Nominate{Nominate: c}}
	})
}

// PlanDecline returns the facts that a hunt's condition said no of clients.
func PlanDecline(key Key, clients []ids.Client) ([]*buspb.Mutation, error) {
	return planFacts(key, clients, func(c *buspb.HuntClients) *buspb.HuntChange {
		return &buspb.HuntChange{Change: &buspb.HuntChange_Decline{Decline: c}}
	})
}

func planFacts(key Key, clients []ids.Client, change func(*buspb.HuntClients) *buspb.HuntChange) ([]*buspb.Mutation, error) {
	var out []*buspb.Mutation
	for some := range slices.Chunk(clients, maxBatch) {
		m, err := mutation(key, "", change(&buspb.HuntClients{Clients: texts(some)}))
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// PlanExpire returns the mutations that end hunts whose time is over, as of now by
// the ledger's clock. The manager proposes them.
func (r *Room) PlanExpire(now time.Time) ([]*buspb.Mutation, error) {
	var out []*buspb.Mutation
	for _, h := range r.all(Running, Paused) {
		if h.Expires.After(now) {
			continue
		}
		m, err := mutation(h.Key, "", &buspb.HuntChange{Change: &buspb.HuntChange_Expire{Expire: &buspb.HuntExpire{}}})
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func texts(clients []ids.Client) []string {
	out := make([]string, len(clients))
	for i, c := range clients {
		out[i] = c.String()
	}
	return out
}

// mutation packs a change of one hunt.
func mutation(key Key, principal string, c *buspb.HuntChange) (*buspb.Mutation, error) {
	c.Hunt = key.Hunt.String()
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(&buspb.HuntsBody{Changes: []*buspb.HuntChange{c}})
	if err != nil {
		return nil, fmt.Errorf("serialise change of hunt %s: %w: %w", key.Hunt, ErrInvalid, err)
	}
	return &buspb.Mutation{Kind: Kind, Org: key.Org.String(), Body: body, Principal: principal}, nil
}
