package users

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"raptorpack/proto/buspb"
)

// What an account may make us keep.
const (
	maxMessages  = 50 // of one account; the oldest make room
	maxFavorites = 200
	maxLinks     = 32
	maxSpecBytes = 64 << 10
	maxJSONBytes = 4 << 10 // of a message or a link
	maxWord      = 128     // bytes of a name or an option
	maxProse     = 1 << 10 // bytes of a description
)

// Options say how the GUI looks for one account. Empty is what everybody has.
type Options struct {
	Theme    string
	Timezone string            // IANA name
	Lang     string            // as en or pt-br
	Org      string            // shown first
	Links    []json.RawMessage // each a JSON object with text and url
}

func (o *Options) empty() bool {
	return o.Theme+o.Timezone+o.Lang+o.Org == "" && len(o.Links) == 0
}

// Message is something that an account was told.
type Message struct {
	Sent time.Time
	From string // the principal who sent it
	JSON json.RawMessage
}

// Favorite is a collection that an account saved. Its name is unique among those of
// its type.
type Favorite struct {
	Type        string // of its artifacts, as CLIENT
	Name        string
	Description string
	Spec        json.RawMessage
}

// profile is what an account keeps for itself. Its slices are replaced, never changed.
type profile struct {
	options   Options
	messages  []Message  // oldest first
	favorites []Favorite // by type and name
}

// edit returns an account's profile to be changed.
func (r *Room) edit(user string) *profile {
	p := r.profiles[user]
	if p == nil {
		p = &profile{}
		r.profiles[user] = p
	}
	return p
}

// applyProfile is Apply for what accounts keep; the caller holds the lock.
func (r *Room) applyProfile(e *buspb.Entry, change *buspb.UserChange, now time.Time) error {
	user := change.GetOptions().GetName() + change.GetMessage().GetName() + change.GetFavorite().GetUser() + change.GetUnfavorite().GetUser()
	if change.GetChange() != nil && r.accounts[user] == nil {
		return fmt.Errorf("change what user %.40q keeps: %w", user, ErrUnknownUser)
	}
	switch c := change.GetChange().(type) {
	case *buspb.UserChange_Options:
		return r.setOptions(user, c.Options)
	case *buspb.UserChange_Message:
		return r.message(user, Message{Sent: now, From: e.GetMutation().GetPrincipal(), JSON: json.RawMessage(c.Message.GetJson())})
	case *buspb.UserChange_Favorite:
		f := c.Favorite
		return r.save(user, Favorite{f.GetType(), f.GetName(), f.GetDescription(), json.RawMessage(f.GetSpec())})
	case *buspb.UserChange_Unfavorite:
		return r.forget(user, c.Unfavorite.GetType(), c.Unfavorite.GetName())
	}
	return fmt.Errorf("apply users: change of an unknown kind: %w", ErrRefused)
}

func (r *Room) setOptions(user string, change *buspb.UserOptions) error {
	for _, link := range change.GetLinks().GetLinks() {
		if !json.Valid([]byte(link)) { // what else a link needs, its plan has asked
			return fmt.Errorf("link of user %s is no JSON: %w", user, ErrRefused)
		}
	}
	p := r.edit(user)
	for _, one := range []struct {
		into *string
		text *string
	}{
		{&p.options.Theme, change.Theme},
		{&p.options.Timezone, change.Timezone},
		{&p.options.Lang, change.Lang},
		{&p.options.Org, change.Org},
	} {
		if one.text != nil {
			*one.into = *one.text
		}
	}
	if change.GetLinks() != nil {
		p.options.Links = nil
		for _, link := range change.GetLinks().GetLinks() {
			p.options.Links = append(p.options.Links, json.RawMessage(link))
		}
	}
	return nil
}

func (r *Room) message(user string, m Message) error {
	if !json.Valid(m.JSON) {
		return fmt.Errorf("message to user %s is no JSON: %w", user, ErrRefused)
	}
	p := r.edit(user)
	kept := p.messages[max(0, len(p.messages)+1-maxMessages):]
	p.messages = append(slices.Clone(kept), m)
	return nil
}

func (r *Room) save(user string, f Favorite) error {
	if !json.Valid(f.Spec) {
		return fmt.Errorf("favorite %.80q of user %s is no JSON: %w", f.Name, user, ErrRefused)
	}
	p := r.edit(user)
	at, known := p.find(f.Type, f.Name)
	p.favorites = slices.Clone(p.favorites)
	switch {
	case known:
		p.favorites[at] = f
	case len(p.favorites) >= maxFavorites:
		return fmt.Errorf("favorite %.80q: user %s has %d already: %w", f.Name, user, maxFavorites, ErrRefused)
	default:
		p.favorites = slices.Insert(p.favorites, at, f)
	}
	return nil
}

func (r *Room) forget(user, kind, name string) error {
	if p := r.profiles[user]; p != nil {
		if at, known := p.find(kind, name); known {
			p.favorites = slices.Delete(slices.Clone(p.favorites), at, at+1)
			return nil
		}
	}
	return fmt.Errorf("favorite %.80q of type %.40q: %w", name, kind, ErrUnknownFavorite)
}

func (p *profile) find(kind, name string) (int, bool) {
	return slices.BinarySearchFunc(p.favorites, Favorite{Type: kind, Name: name}, func(a, b Favorite) int {
		return strings.Compare(a.Type+"\x00"+a.Name, b.Type+"\x00"+b.Name)
	})
}

// profile copies what an account keeps; an unknown one keeps nothing.
func (r *Room) profile(user string) profile {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if p := r.profiles[user]; p != nil {
		return *p
	}
	return profile{}
}

// Options returns how the GUI looks for an account. Nobody changes its links later,
// and the caller must not.
func (r *Room) Options(user string) Options { return r.profile(user).options }

// Messages returns what an account was told, the oldest first: the newest 50. It
// is not changed later.
func (r *Room) Messages(user string) []Message { return r.profile(user).messages }

// Favorites returns what an account saved, by type and name. It is not changed later.
func (r *Room) Favorites(user string) []Favorite { return r.profile(user).favorites }
