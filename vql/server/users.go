package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/users"
	"raptorpack/vql"
)

var whoamiFunction = vql.NewFunction(vql.Spec{
	Name: "whoami", Doc: "Gives the name of whoever runs the query.",
}, func(_ context.Context, scope *vql.Scope, _ *struct{}) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	return h.Principal, nil
})

type usersArgs struct {
	AllOrgs bool `vql:"all_orgs" doc:"Of all orgs; there is one."`
}

var userColumns = []string{"name", "org_id", "org_name", "picture", "email", "roles", "_policy", "effective_policy", "stats"}

var guiUsersPlugin = vql.NewPlugin(vql.Spec{
	Name: "gui_users", Doc: "Lists accounts with their roles. Without SERVER_ADMIN it gives the caller's own only.", Columns: userColumns,
}, listUsers)

var usersPlugin = vql.NewPlugin(vql.Spec{
	Name: "users", Doc: "The same as gui_users, for queries that run on servers only.", Columns: userColumns,
}, listUsers)

func listUsers(_ context.Context, scope *vql.Scope, _ *usersArgs, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	all := need(scope, users.ServerAdmin) == nil
	if !all {
		scope.Log(vql.LevelInfo, "gui_users: without SERVER_ADMIN only your own account is listed")
	}
	for _, a := range h.Users.Accounts() {
		if !all && a.Name != h.Principal {
			continue
		}
		if err := emit(h.userRow(a)); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) userRow(a *users.Account) *vql.Dict {
	granted := users.PermissionsOf(a.Roles)
	permissions := make([]string, 0, len(granted))
	policy := vql.NewDict()
	for _, p := range granted {
		permissions = append(permissions, string(p))
		policy.Set(strings.ToLower(string(p)), true)
	}
	stats := vql.NewDict().Set("locked", a.Locked).Set("has_password", a.HasPassword()).Set("created", a.Created)
	return vql.NewDict().
		Set("name", a.Name).
		Set("org_id", orgID(h.Org)).
		Set("org_name", orgName(h.Org)).
		Set("picture", "").
		Set("email", "").
		Set("roles", list(a.Roles)).
		Set("_policy", vql.NewDict().Set("roles", list(a.Roles)).Set("permissions", permissions)).
		Set("effective_policy", policy).
		Set("stats", stats)
}

type userCreateArgs struct {
	User     string   `vql:"user,required" doc:"The account."`
	Roles    []string `vql:"roles,required" doc:"Its roles, in place of those it has."`
	Password string   `vql:"password" doc:"Its password, 8 bytes or more (what it has, or none)."`
	Sub      string   `vql:"sub" doc:"Its subject at an identity provider; this version keeps none."`
	Orgs     []string `vql:"orgs" doc:"Its orgs; this version reaches the query's own only."`
}

var userCreateFunction = vql.NewFunction(vql.Spec{
	Name: "user_create", Permission: "SERVER_ADMIN",
	Doc: "Makes an account, or changes its roles and password, and gives its name. Nobody gives away more than they have.",
}, func(ctx context.Context, scope *vql.Scope, args *userCreateArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	if err := h.sameOrg(args.Orgs...); err != nil {
		return nil, err
	}
	if args.Sub != "" {
		return nil, fmt.Errorf("sub: %w", ErrUnsupported)
	}
	wish := userWish{name: args.User, roles: args.Roles, password: args.Password}
	return args.User, h.setUser(ctx, scope, wish)
})

type userGrantArgs struct {
	User  string   `vql:"user,required" doc:"The account."`
	Roles []string `vql:"roles,required" doc:"Its roles, in place of those it has."`
	Orgs  []string `vql:"orgs" doc:"The orgs; this version reaches the query's own only."`
}

var userGrantFunction = vql.NewFunction(vql.Spec{
	Name: "user_grant", Permission: "SERVER_ADMIN", Doc: "Changes the roles of an account that exists, and gives its name.",
}, func(ctx context.Context, scope *vql.Scope, args *userGrantArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	if err := h.sameOrg(args.Orgs...); err != nil {
		return nil, err
	}
	if _, err := h.Users.Account(args.User); err != nil {
		return nil, err
	}
	return args.User, h.setUser(ctx, scope, userWish{name: args.User, roles: args.Roles})
})

type passwdArgs struct {
	User     string `vql:"user" doc:"The account (the caller's own)."`
	Password string `vql:"password,required" doc:"The new password, 8 bytes or more."`
}

var passwdFunction = vql.NewFunction(vql.Spec{
	Name: "passwd", Doc: "Changes the password of an account, and gives its name. Another's needs SERVER_ADMIN.",
}, func(ctx context.Context, scope *vql.Scope, args *passwdArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	name := args.User
	if name == "" {
		name = h.Principal
	}
	if name != h.Principal {
		if err := need(scope, users.ServerAdmin); err != nil {
			return nil, err
		}
	}
	account, err := h.Users.Account(name)
	if err != nil {
		return nil, err
	}
	if args.Password == "" {
		return nil, fmt.Errorf("password is empty: %w", ErrArgument)
	}
	if err := atMost(scope, account.Roles); err != nil {
		return nil, err
	}
	hash, err := h.Users.HashPassword(ctx, args.Password)
	if err != nil {
		return nil, err
	}
	m, err := h.Users.PlanPassword(name, hash)
	if err != nil {
		return nil, err
	}
	return name, h.change(ctx, m, "user.set", name, map[string]string{"password": "changed"})
})

// userWish is what an account is to become.
type userWish struct {
	name     string
	roles    []string
	password string // empty keeps what is there
}

// setUser makes or changes an account. The caller must have every permission that
// the account gets and, so that nobody takes over somebody mightier, every one
// that it has.
func (h *Host) setUser(ctx context.Context, scope *vql.Scope, w userWish) error {
	known, err := h.Users.Account(w.name)
	switch {
	case err == nil:
		if err := h.within(scope, known); err != nil {
			return err
		}
	case !errors.Is(err, users.ErrUnknownUser):
		return err
	}
	if err := atMost(scope, w.roles); err != nil {
		return err
	}
	var hash []byte
	if w.password != "" {
		if hash, err = h.Users.HashPassword(ctx, w.password); err != nil {
			return err
		}
	}
	m, err := h.planUser(w, hash, known != nil)
	if err != nil {
		return err
	}
	details := map[string]string{"roles": strings.Join(w.roles, ",")}
	if w.password != "" {
		details["password"] = "changed"
	}
	return h.change(ctx, m, "user.set", w.name, details)
}

// planUser changes an account that the caller saw, whatever others change of it
// meanwhile, or makes one.
func (h *Host) planUser(w userWish, hash []byte, known bool) (*buspb.Mutation, error) {
	if known {
		return h.Users.PlanRoles(w.name, w.roles, hash)
	}
	return h.Users.PlanSet(w.name, w.roles, hash, false)
}

// within asks whether the caller is at least as mighty as an account that is not
// their own.
func (h *Host) within(scope *vql.Scope, a *users.Account) error {
	if a.Name == h.Principal {
		return nil
	}
	return atMost(scope, a.Roles)
}

func atMost(scope *vql.Scope, roles []string) error {
	for _, permission := range users.PermissionsOf(roles) {
		if err := need(scope, permission); err != nil {
			return err
		}
	}
	return nil
}

type userDeleteArgs struct {
	User       string   `vql:"user,required" doc:"The account."`
	Orgs       []string `vql:"orgs" doc:"The orgs; this version reaches the query's own only."`
	ReallyDoIt bool     `vql:"really_do_it" doc:"Delete; otherwise only tell whether one could."`
}

var userDeleteFunction = vql.NewFunction(vql.Spec{
	Name: "user_delete", Permission: "SERVER_ADMIN",
	Doc: "Deletes an account and signs it out everywhere; gives its name. Without really_do_it nothing is changed.",
}, func(ctx context.Context, scope *vql.Scope, args *userDeleteArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	if err := h.sameOrg(args.Orgs...); err != nil {
		return nil, err
	}
	account, err := h.Users.Account(args.User)
	if err != nil {
		return nil, err
	}
	if err := h.within(scope, account); err != nil {
		return nil, err
	}
	if !args.ReallyDoIt {
		scope.Log(vql.LevelInfo, "user_delete: %s would be deleted; really_do_it is not set", account.Name)
		return account.Name, nil
	}
	m, err := h.Users.PlanDelete(account.Name)
	if err != nil {
		return nil, err
	}
	return account.Name, h.change(ctx, m, "user.delete", account.Name, nil)
})

var orgFunction = vql.NewFunction(vql.Spec{
	Name: "org", Doc: "Describes the query's org. The nonce and the clients' configuration are for SERVER_ADMIN.",
}, func(_ context.Context, scope *vql.Scope, _ *struct{}) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	info := h.orgInfo(scope)
	return vql.NewDict().Set("name", orgName(h.Org)).Set("id", orgID(h.Org)).Set("nonce", info.Nonce).
		Set("_client_config", info.config()), nil
})

var orgsPlugin = vql.NewPlugin(vql.Spec{
	Name: "orgs", Doc: "Lists the orgs that the query reaches: its own.", Columns: []string{"Name", "OrgId", "_client_config"},
}, func(_ context.Context, scope *vql.Scope, _ *struct{}, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	info := h.orgInfo(scope)
	return emit(vql.NewDict().Set("Name", orgName(h.Org)).Set("OrgId", orgID(h.Org)).Set("_client_config", info.config()))
})

// orgInfo is what the caller may know: the nonce lets clients enrol.
func (h *Host) orgInfo(scope *vql.Scope) OrgInfo {
	if h.OrgInfo == nil || need(scope, users.ServerAdmin) != nil {
		return OrgInfo{}
	}
	return h.OrgInfo(h.Org)
}

func (i OrgInfo) config() vql.Value {
	if i.ClientConfig == nil {
		return vql.NULL
	}
	return i.ClientConfig
}

func orgID(org ids.Org) string {
	if org == ids.RootOrg {
		return "root"
	}
	return org.String()
}

func orgName(org ids.Org) string {
	if org == ids.RootOrg {
		return "<root>"
	}
	return org.String()
}
