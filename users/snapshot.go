package users

import (
	"bufio"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"raptorpack/internal/jsonlines"
)

// line is an account, a session or something of a profile in the snapshot file.
type line struct {
	User     string          `json:"user"`
	Roles    []string        `json:"roles,omitempty"`
	Locked   bool            `json:"locked,omitempty"`
	Created  int64           `json:"created_us,omitempty"`
	Password string          `json:"password,omitempty"`
	Session  string          `json:"session_sha256,omitempty"`
	Expires  int64           `json:"expires_us,omitempty"`
	Note     string          `json:"note,omitempty"`
	Options  *optionsLine    `json:"options,omitempty"`
	Message  json.RawMessage `json:"message,omitempty"`
	From     string          `json:"from,omitempty"`
	Sent     int64           `json:"sent_us,omitempty"`
	Favorite *favoriteLine   `json:"favorite,omitempty"`
}

type optionsLine struct {
	Theme    string            `json:"theme,omitempty"`
	Timezone string            `json:"timezone,omitempty"`
	Lang     string            `json:"lang,omitempty"`
	Org      string            `json:"org,omitempty"`
	Links    []json.RawMessage `json:"links,omitempty"`
}

type favoriteLine struct {
	Type        string          `json:"type"`
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Spec        json.RawMessage `json:"spec"`
}

// View implements replication.State.
func (r *Room) View() io.WriterTo {
	r.mu.RLock()
	defer r.mu.RUnlock()
	lines := make(view, 0, len(r.accounts)+len(r.sessions))
	for _, name := range slices.Sorted(maps.Keys(r.accounts)) {
		a := r.accounts[name]
		lines = append(lines, line{User: a.Name, Roles: a.Roles, Locked: a.Locked, Created: a.Created.UnixMicro(), Password: string(a.password)})
	}
	ids := slices.SortedFunc(maps.Keys(r.sessions), func(a, b [32]byte) int { return slices.Compare(a[:], b[:]) })
	for _, id := range ids {
		s := r.sessions[id]
		lines = append(lines, line{User: s.User, Session: hex.EncodeToString(id[:]), Expires: s.Expires.UnixMicro(), Note: s.Note})
	}
	for _, name := range slices.Sorted(maps.Keys(r.profiles)) {
		lines = r.profiles[name].appendLines(lines, name)
	}
	return lines
}

func (p *profile) appendLines(lines view, user string) view {
	if o := p.options; !o.empty() {
		lines = append(lines, line{User: user, Options: &optionsLine{o.Theme, o.Timezone, o.Lang, o.Org, o.Links}})
	}
	for _, m := range p.messages {
		lines = append(lines, line{User: user, Message: m.JSON, From: m.From, Sent: m.Sent.UnixMicro()})
	}
	for _, f := range p.favorites {
		lines = append(lines, line{User: user, Favorite: &favoriteLine{f.Type, f.Name, f.Description, f.Spec}})
	}
	return lines
}

type view []line

// WriteTo writes accounts by name, then sessions by hash, then profiles by name.
func (v view) WriteTo(w io.Writer) (int64, error) { return jsonlines.Write(w, slices.Values(v)) }

// Restore implements replication.State.
func (r *Room) Restore(from io.Reader) error {
	fresh := New()
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var l line
		err := json.Unmarshal(lines.Bytes(), &l)
		if err == nil {
			err = fresh.put(&l)
		}
		if err != nil {
			return fmt.Errorf("restore users: line %d: %w", n, cmp.Or(lines.Err(), err))
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("restore users: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accounts, r.sessions, r.profiles = fresh.accounts, fresh.sessions, fresh.profiles
	return nil
}

// put takes over a line of a snapshot.
func (r *Room) put(l *line) error {
	switch {
	case l.Session != "":
		raw, err := hex.DecodeString(l.Session)
		id, ok := idOf(raw)
		if err != nil || !ok {
			return fmt.Errorf("session: %w", ErrRefused)
		}
		r.sessions[id] = Session{User: l.User, Expires: time.UnixMicro(l.Expires).UTC(), Note: l.Note}
	case l.Options != nil:
		o := l.Options
		r.edit(l.User).options = Options{o.Theme, o.Timezone, o.Lang, o.Org, o.Links}
	case l.Message != nil:
		p := r.edit(l.User)
		p.messages = append(p.messages, Message{Sent: time.UnixMicro(l.Sent).UTC(), From: l.From, JSON: l.Message})
	case l.Favorite != nil:
		p, f := r.edit(l.User), l.Favorite
		p.favorites = append(p.favorites, Favorite{f.Type, f.Name, f.Description, f.Spec})
	default:
		r.accounts[l.User] = &Account{
			Name: l.User, Roles: l.Roles, Locked: l.Locked, Created: time.UnixMicro(l.Created).UTC(), password: []byte(l.Password),
		}
	}
	return nil
}
