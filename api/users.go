package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"raptorpack/proto/buspb"
	"raptorpack/users"
)

// User is an account as operators see it.
type User struct {
	Name        string             `json:"name"`
	Roles       []string           `json:"roles" nullable:"false"`
	Permissions []users.Permission `json:"permissions" nullable:"false"`
	Locked      bool               `json:"locked"`
	Password    bool               `json:"has_password"`
	Created     time.Time          `json:"created"`
}

func showUser(a *users.Account) User {
	return User{
		Name: a.Name, Roles: a.Roles, Permissions: users.PermissionsOf(a.Roles), Locked: a.Locked, Password: a.HasPassword(), Created: a.Created,
	}
}

func (s *Server) userRoutes() {
	get(s, "/users", "listUsers", "List accounts", s.listUsers)
	register(s, http.MethodPut, "/users/{name}", "setUser", "Make or change an account", s.setUser)
	register(s, http.MethodDelete, "/users/{name}", "deleteUser", "Delete an account and sign it out everywhere", s.deleteUser)
	register(s, http.MethodPost, "/users/{name}/keys", "makeKey", "Make an API key", s.makeKey)
}

func (s *Server) listUsers(ctx context.Context, _ *struct{}) (*body[List[User]], error) {
	if _, err := s.may(ctx, users.ServerAdmin); err != nil {
		return nil, err
	}
	out := List[User]{Items: []User{}, AsOf: s.asOf()}
	for _, account := range s.o.Users.Accounts() {
		out.Items = append(out.Items, showUser(account))
	}
	out.Total = int64(len(out.Items))
	return &body[List[User]]{out}, nil
}

type userIn struct {
	Writing
	Name string `path:"name"`
	Body struct {
		Roles    []string `json:"roles"`
		Password string   `json:"password,omitempty" doc:"8 bytes or more; left out keeps what is there"`
		Locked   *bool    `json:"locked,omitempty" doc:"left out keeps what is there"`
	}
}

func (s *Server) setUser(ctx context.Context, in *userIn) (*body[Done], error) {
	who, err := s.may(ctx, users.ServerAdmin)
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) { return s.planUser(ctx, who, in) })
}

func (s *Server) planUser(ctx context.Context, who *Principal, in *userIn) (*change, error) {
	if err := s.within(who, in.Body.Roles); err != nil {
		return nil, err
	}
	there, err := s.mayChange(who, in.Name)
	if err != nil {
		return nil, err
	}
	var hash []byte
	if in.Body.Password != "" {
		if hash, err = s.o.Users.HashPassword(ctx, in.Body.Password); err != nil {
			return nil, err
		}
	}
	var m *buspb.Mutation
	if there && in.Body.Locked == nil { // as it will be then: somebody may lock it meanwhile
		m, err = s.o.Users.PlanRoles(in.Name, in.Body.Roles, hash)
	} else {
		m, err = s.o.Users.PlanSet(in.Name, in.Body.Roles, hash, in.Body.Locked != nil && *in.Body.Locked)
	}
	return &change{m, "user.set", in.Name, map[string]string{"roles": strings.Join(in.Body.Roles, ",")}}, err
}

// within keeps people from giving away more than they have.
func (s *Server) within(who *Principal, roles []string) error {
	for _, permission := range users.PermissionsOf(roles) {
		if err := s.check(who, permission); err != nil {
			return err
		}
	}
	return nil
}

// mayChange keeps people from taking over or removing accounts that may do more
// than they. It returns whether the account is there.
func (s *Server) mayChange(who *Principal, name string) (there bool, err error) {
	account, err := s.o.Users.Account(name)
	if errors.Is(err, users.ErrUnknownUser) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, s.within(who, account.Roles)
}

func (s *Server) deleteUser(ctx context.Context, in *struct {
	Writing
	Name string `path:"name"`
},
) (*body[Done], error) {
	who, err := s.may(ctx, users.ServerAdmin)
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) {
		if _, err := s.mayChange(who, in.Name); err != nil {
			return nil, err
		}
		m, err := s.o.Users.PlanDelete(in.Name)
		return &change{m, "user.delete", in.Name, nil}, err
	})
}

// Key is a fresh API key; it is shown this once.
type Key struct {
	Key     string    `json:"key"`
	Expires time.Time `json:"expires"`
}

func (s *Server) makeKey(ctx context.Context, in *struct {
	Writing
	Name string `path:"name"`
	Body struct {
		Note string `json:"note,omitempty" maxLength:"200"`
		Days int    `json:"days,omitempty" minimum:"1" maximum:"3650" default:"365"`
	}
},
) (*body[Key], error) {
	who, err := s.may(ctx)
	if err != nil {
		return nil, err
	}
	if _, known, err := s.earlier(ctx, who, in.Writing); known {
		return nil, cmp.Or(err, errShownOnce)
	}
	account, err := s.o.Users.Account(in.Name)
	if who.Name != in.Name {
		if err := s.check(who, users.ServerAdmin); err != nil {
			return nil, err
		}
		if account != nil {
			if err := s.within(who, account.Roles); err != nil {
				return nil, err
			}
		}
	}
	if err != nil {
		return nil, err
	}
	expires := time.Now().AddDate(0, 0, max(in.Body.Days, 1)).UTC()
	m, secret, err := s.o.Users.PlanSession(in.Name, in.Body.Note, expires)
	if err != nil {
		return nil, err
	}
	c := &change{m, "user.key", in.Name, map[string]string{"note": in.Body.Note}}
	if _, err := s.propose(ctx, who, in.Writing, c); err != nil {
		return nil, err
	}
	if _, err := s.o.Users.SessionUser(secret, time.Now()); err != nil {
		return nil, errShownOnce // the same request came at the same time, and was first
	}
	s.Audit(ctx, who, c.operation, c.object, c.details)
	return &body[Key]{Key{secret, expires}}, nil
}
