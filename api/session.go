package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"raptorpack/users"
)

func (s *Server) sessionRoutes() {
	register(s, http.MethodPost, "/sign-in", "signIn", "Sign in with name and password", s.signIn)
	register(s, http.MethodPost, "/sign-out", "signOut", "End this session on all nodes", s.signOut)
	get(s, "/me", "whoAmI", "Who is asking", s.whoAmI)
}

type signInIn struct {
	Body struct {
		Name     string `json:"name" maxLength:"128"`
		Password string `json:"password" maxLength:"1024"`
	}
}

type cookieOut struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
	Body      Me
}

// Me is who is asking.
type Me struct {
	Name        string             `json:"name"`
	Roles       []string           `json:"roles" nullable:"false"`
	Permissions []users.Permission `json:"permissions" nullable:"false"`
}

func (s *Server) signIn(ctx context.Context, in *signInIn) (*cookieOut, error) {
	account, err := s.o.Users.SignIn(ctx, in.Body.Name, in.Body.Password)
	if err != nil {
		s.log.Info("sign-in denied", "user", in.Body.Name, "address", addressOf(ctx))
		return nil, err
	}
	expires := time.Now().Add(sessionLife)
	m, secret, err := s.o.Users.PlanSession(account.Name, users.SignInNote, expires)
	if err != nil {
		return nil, err
	}
	who := &Principal{Name: account.Name, Address: addressOf(ctx)}
	if _, err := s.change(ctx, who, Writing{}, func() (*change, error) { return &change{m, "sign-in", account.Name, nil}, nil }); err != nil {
		return nil, err
	}
	return &cookieOut{
		SetCookie: http.Cookie{
			Name: sessionCookie, Value: secret, Path: "/", Expires: expires, HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode,
		},
		Body: Me{account.Name, account.Roles, users.PermissionsOf(account.Roles)},
	}, nil
}

func (s *Server) signOut(ctx context.Context, _ *struct{}) (*cookieOut, error) {
	who, err := s.may(ctx)
	if err != nil {
		return nil, err
	}
	if who.Secret != "" {
		_, err := s.change(ctx, who, Writing{}, func() (*change, error) {
			m, err := s.o.Users.PlanSignOut(who.Secret)
			return &change{m, "sign-out", who.Name, nil}, err
		})
		if err != nil {
			return nil, err
		}
	}
	return &cookieOut{SetCookie: http.Cookie{Name: sessionCookie, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true}}, nil
}

func (s *Server) whoAmI(ctx context.Context, _ *struct{}) (*body[Me], error) {
	who, err := s.may(ctx)
	if err != nil {
		return nil, err
	}
	roles := localRoles
	if !who.Local {
		account, err := s.o.Users.Account(who.Name)
		if err != nil {
			return nil, err
		}
		roles = account.Roles
	}
	return &body[Me]{Me{who.Name, roles, users.PermissionsOf(roles)}}, nil
}

func (s *Server) statusRoutes() {
	get(s, "/status", "status", "What this node says of itself", func(ctx context.Context, _ *struct{}) (*body[Status], error) {
		if _, err := s.may(ctx); err != nil {
			return nil, err
		}
		return &body[Status]{s.o.Status()}, nil
	})
	get(s, "/vql/reference", "vqlReference", "Functions and plugins of the query language", s.reference)
}

func (s *Server) reference(ctx context.Context, _ *struct{}) (*body[json.RawMessage], error) {
	if _, err := s.may(ctx); err != nil {
		return nil, err
	}
	text, err := json.Marshal(s.o.Engine.Reference())
	return &body[json.RawMessage]{text}, err
}
