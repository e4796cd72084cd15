package users

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/buspb"
)

// Kind is the kind of this room's mutations and of its snapshot file.
const Kind = "users"

var (
	// ErrUnknownUser means that there is no such account.
	ErrUnknownUser = errors.New("unknown user")

	// ErrDenied means that name and password, or the session, do not let anybody
	// in. It does not tell which of them was wrong.
	ErrDenied = errors.New("sign-in denied")

	// ErrForbidden means that the user lacks a permission.
	ErrForbidden = errors.New("permission denied")

	// ErrRefused means that a wish is malformed. Trying again does not help.
	ErrRefused = errors.New("change refused")
)

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$`)

// Account is one operator or program. It is immutable.
type Account struct {
	Name     string
	Roles    []string
	Locked   bool
	Created  time.Time
	password []byte
}

// HasPassword reports whether the account may sign in with a password.
func (a *Account) HasPassword() bool { return len(a.password) > 0 }

// Session is a signed-in browser or an API key.
type Session struct {
	User    string
	Expires time.Time
	Note    string
}

// SignInNote marks sessions that began with a password. They end when it changes.
const SignInNote = "sign-in"

// Room is the state of all operators. Safe for concurrent use.
type Room struct {
	hashers hashers

	mu       sync.RWMutex
	accounts map[string]*Account
	sessions map[[32]byte]Session
	profiles map[string]*profile // of accounts that have any
}

// New makes an empty room.
func New() *Room {
	return &Room{
		hashers: make(hashers, hashersAtOnce), accounts: map[string]*Account{}, sessions: map[[32]byte]Session{},
		profiles: map[string]*profile{},
	}
}

// Kind implements replication.State.
func (r *Room) Kind() string { return Kind }

// Apply implements replication.State: the only writer.
func (r *Room) Apply(e *buspb.Entry) error {
	var change buspb.UserChange
	if err := proto.Unmarshal(e.GetMutation().GetBody(), &change); err != nil {
		return fmt.Errorf("apply users: %w", ErrRefused)
	}
	now := time.UnixMicro(e.GetTime()).UTC()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch c := change.GetChange().(type) {
	case *buspb.UserChange_Set:
		return r.set(c.Set, now)
	case *buspb.UserChange_Delete:
		return r.remove(c.Delete.GetName())
	case *buspb.UserChange_Session:
		return r.open(c.Session, now)
	case *buspb.UserChange_SignOut:
		if id, ok := idOf(c.SignOut.GetIdHash()); ok {
			delete(r.sessions, id)
		}
		return nil
	}
	return r.applyProfile(e, &change, now)
}

func (r *Room) set(set *buspb.UserSet, now time.Time) error {
	if !validName.MatchString(set.GetName()) {
		return fmt.Errorf("set user %.40q: %w", set.GetName(), ErrRefused)
	}
	account := &Account{Name: set.GetName(), Roles: set.GetRoles(), Locked: set.GetLocked(), Created: now, password: set.GetPasswordHash()}
	known := r.accounts[account.Name]
	if known == nil && (set.GetKeepRoles() || set.GetKeepLocked()) {
		return fmt.Errorf("change user %.40q: %w", account.Name, ErrUnknownUser)
	}
	if known != nil {
		account.Created = known.Created
		if set.GetKeepRoles() {
			account.Roles = known.Roles
		}
		if set.GetKeepLocked() {
			account.Locked = known.Locked
		}
		if len(account.password) == 0 && !set.GetNoPassword() {
			account.password = known.password
		}
	}
	r.accounts[account.Name] = account
	switch {
	case account.Locked:
		r.dropSessions(account.Name)
	case len(set.GetPasswordHash()) > 0:
		// Whoever knew the old password is out; API keys were not made from it.
		maps.DeleteFunc(r.sessions, func(_ [32]byte, s Session) bool { return s.User == account.Name && s.Note == SignInNote })
	}
	return nil
}

func (r *Room) remove(name string) error {
	if r.accounts[name] == nil {
		return fmt.Errorf("delete user %.40q: %w", name, ErrUnknownUser)
	}
	delete(r.accounts, name)
	delete(r.profiles, name)
	r.dropSessions(name)
	return nil
}

func (r *Room) dropSessions(name string) {
	maps.DeleteFunc(r.sessions, func(_ [32]byte, s Session) bool { return s.User == name })
}

// open adds a session, and drops those that ended by the entry's time.
func (r *Room) open(session *buspb.UserSession, now time.Time) error {
	id, ok := idOf(session.GetIdHash())
	if !ok {
		return fmt.Errorf("open session of %.40q: %w", session.GetUser(), ErrRefused)
	}
	if r.accounts[session.GetUser()] == nil {
		return fmt.Errorf("open session of %.40q: %w", session.GetUser(), ErrUnknownUser)
	}
	maps.DeleteFunc(r.sessions, func(_ [32]byte, s Session) bool { return !s.Expires.After(now) })
	r.sessions[id] = Session{User: session.GetUser(), Expires: time.UnixMicro(session.GetExpires()).UTC(), Note: session.GetNote()}
	return nil
}

func idOf(hash []byte) (id [32]byte, ok bool) {
	return id, copy(id[:], hash) == len(id) && len(hash) == len(id)
}

// PlanSet makes or changes an account. An empty hash keeps the password.
func (r *Room) PlanSet(name string, roleNames []string, passwordHash []byte, locked bool) (*buspb.Mutation, error) {
	return planSet(&buspb.UserSet{Name: name, PasswordHash: passwordHash, Locked: locked}, roleNames)
}

// PlanRoles changes the roles of an account that exists. An empty hash keeps the
// password. Whether it is locked stays as it will be then, also if somebody else
// changes it meanwhile.
func (r *Room) PlanRoles(name string, roleNames []string, passwordHash []byte) (*buspb.Mutation, error) {
	account, err := r.Account(name)
	if err != nil {
		return nil, err
	}
	return planSet(&buspb.UserSet{Name: name, PasswordHash: passwordHash, Locked: account.Locked, KeepLocked: true}, roleNames)
}

// PlanPassword changes nothing but the password of an account that exists, also if
// somebody else changes the account meanwhile.
func (r *Room) PlanPassword(name string, passwordHash []byte) (*buspb.Mutation, error) {
	account, err := r.Account(name)
	if err != nil {
		return nil, err
	}
	return planSet(&buspb.UserSet{
		Name: name, PasswordHash: passwordHash, Locked: account.Locked, KeepLocked: true, KeepRoles: true,
	}, account.Roles) // for nodes of a release that knows no KeepRoles
}

func planSet(set *buspb.UserSet, roleNames []string) (*buspb.Mutation, error) {
	if !validName.MatchString(set.GetName()) {
		return nil, fmt.Errorf("user name %.40q: expected letters, digits and . _ @ + - : %w", set.GetName(), ErrRefused)
	}
	for _, role := range roleNames {
		if _, known := roles[role]; !known {
			return nil, fmt.Errorf("role %.40q: expected one of %v: %w", role, Roles(), ErrRefused)
		}
	}
	set.Roles = slices.Compact(slices.Sorted(slices.Values(roleNames)))
	return mutation(&buspb.UserChange{Change: &buspb.UserChange_Set{Set: set}})
}

// PlanDelete removes an account and signs it out everywhere.
func (r *Room) PlanDelete(name string) (*buspb.Mutation, error) {
	if _, err := r.Account(name); err != nil {
		return nil, err
	}
	return mutation(&buspb.UserChange{Change: &buspb.UserChange_Delete{Delete: &buspb.UserDelete{Name: name}}})
}

// PlanSession makes a session or API key for user. secret is shown to its holder
// once; only its hash is kept.
func (r *Room) PlanSession(user, note string, expires time.Time) (m *buspb.Mutation, secret string, err error) {
	if _, err := r.Account(user); err != nil {
		return nil, "", err
	}
	raw := make([]byte, 32)
	rand.Read(raw) // never fails since Go 1.24
	secret = base64.RawURLEncoding.EncodeToString(raw)
	hash := sha256.Sum256([]byte(secret))
	m, err = mutation(&buspb.UserChange{Change: &buspb.UserChange_Session{Session: &buspb.UserSession{
		IdHash: hash[:], User: user, Expires: expires.UnixMicro(), Note: note,
	}}})
	return m, secret, err
}

// PlanSignOut ends a session or withdraws an API key.
func (r *Room) PlanSignOut(secret string) (*buspb.Mutation, error) {
	hash := sha256.Sum256([]byte(secret))
	return mutation(&buspb.UserChange{Change: &buspb.UserChange_SignOut{SignOut: &buspb.UserSignOut{IdHash: hash[:]}}})
}

func mutation(change *buspb.UserChange) (*buspb.Mutation, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(change)
	if err != nil {
		return nil, fmt.Errorf("encode user change: %w", err)
	}
	return &buspb.Mutation{Kind: Kind, Body: body}, nil
}

// Account returns an account, or ErrUnknownUser.
func (r *Room) Account(name string) (*Account, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if account := r.accounts[name]; account != nil {
		return account, nil
	}
	return nil, fmt.Errorf("user %.40q: %w", name, ErrUnknownUser)
}

// Accounts lists all accounts by name.
func (r *Room) Accounts() []*Account {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]*Account, 0, len(r.accounts))
	for _, name := range slices.Sorted(maps.Keys(r.accounts)) {
		out = append(out, r.accounts[name])
	}
	return out
}

// SignIn checks a password. An unknown name costs as much as a wrong password,
// so that time does not tell which accounts exist.
func (r *Room) SignIn(ctx context.Context, name, password string) (*Account, error) {
	account, err := r.Account(name)
	stored := []byte(decoyHash)
	if err == nil && account.HasPassword() && !account.Locked {
		stored = account.password
	}
	ok, hashErr := r.matches(ctx, stored, password)
	if hashErr != nil {
		return nil, fmt.Errorf("sign in %.40q: %w", name, hashErr)
	}
	if !ok || err != nil || account.Locked || !account.HasPassword() {
		return nil, fmt.Errorf("sign in %.40q: %w", name, ErrDenied)
	}
	return account, nil
}

// decoyHash is a well-formed hash that no password is known for.
const decoyHash = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// SessionUser returns the account behind a session secret or API key.
func (r *Room) SessionUser(secret string, now time.Time) (*Account, error) {
	hash := sha256.Sum256([]byte(secret))
	r.mu.RLock()
	defer r.mu.RUnlock()
	session, known := r.sessions[hash]
	account := r.accounts[session.User]
	if !known || account == nil || account.Locked || !session.Expires.After(now) {
		return nil, fmt.Errorf("session: %w", ErrDenied)
	}
	return account, nil
}

// Check is the one permission check: nil if the named user may, else ErrDenied
// (no such user, or locked) or ErrForbidden.
func (r *Room) Check(name string, permission Permission) error {
	account, err := r.Account(name)
	if err != nil || account.Locked {
		return fmt.Errorf("user %.40q: %w", name, ErrDenied)
	}
	return CheckRoles(name, account.Roles, permission)
}

// CheckRoles is Check for somebody whose roles are known already.
func CheckRoles(name string, roleNames []string, permission Permission) error {
	if slices.Contains(PermissionsOf(roleNames), permission) {
		return nil
	}
	return fmt.Errorf("user %s lacks %s: %w", name, permission, ErrForbidden)
}
