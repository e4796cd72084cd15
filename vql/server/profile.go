package server

import (
	"context"
	"encoding/json"
	"fmt"

	"raptorpack/users"
	"raptorpack/vql"
)

type userOptionsArgs struct {
	User            string    `vql:"user,required" doc:"The account."`
	Theme           *string   `vql:"theme" doc:"The colours of the GUI."`
	Timezone        *string   `vql:"timezone" doc:"The zone that times are shown in, as Europe/Berlin."`
	Lang            *string   `vql:"lang" doc:"The language, as en."`
	Org             *string   `vql:"org" doc:"The org shown first; there is one."`
	Links           vql.Query `vql:"links" doc:"Rows with text, url and what else the GUI shows of a link: in place of the links before."`
	DefaultPassword string    `vql:"default_password" doc:"Refused: it would lie readable in every node's memory and files."`
}

var userOptionsFunction = vql.NewFunction(vql.Spec{
	Name: "user_options",
	Doc:  "Sets what is given of the GUI options of an account, and gives all of them. Another's account needs SERVER_ADMIN.",
}, func(ctx context.Context, scope *vql.Scope, args *userOptionsArgs) (vql.Value, error) {
	h, err := ownProfile(scope, args.User)
	if err != nil {
		return nil, err
	}
	if args.DefaultPassword != "" {
		return nil, fmt.Errorf("default_password: passwords are not kept in a form that can be read: %w", ErrUnsupported)
	}
	wish := users.OptionsWish{Theme: args.Theme, Timezone: args.Timezone, Lang: args.Lang, Org: args.Org}
	if wish.Org != nil {
		if err := h.sameOrg(*wish.Org); err != nil {
			return nil, err
		}
	}
	if wish.Links, err = linksOf(ctx, scope, args.Links); err != nil {
		return nil, err
	}
	if wish != (users.OptionsWish{}) {
		m, err := h.Users.PlanOptions(args.User, wish)
		if err != nil {
			return nil, err
		}
		if err := h.change(ctx, m, "user.options", args.User, nil); err != nil {
			return nil, err
		}
	}
	return optionsDict(h.Users.Options(args.User))
})

// linksOf runs the query of links as far as an account may keep them.
func linksOf(ctx context.Context, scope *vql.Scope, q vql.Query) (*[]string, error) {
	if !q.Given() {
		return nil, nil
	}
	out := []string{}
	err := q.Run(ctx, scope, func(row vql.Value) error {
		if len(out) >= 1000 {
			return fmt.Errorf("more than %d links: %w", len(out), ErrArgument)
		}
		out = append(out, string(vql.AppendJSON(nil, scope.Row(ctx, row))))
		return nil
	})
	return &out, err
}

func optionsDict(o users.Options) (*vql.Dict, error) {
	links := []any{}
	for _, raw := range o.Links {
		link, err := decodeRow(raw)
		if err != nil {
			return nil, fmt.Errorf("link of a user: %w", err)
		}
		links = append(links, link)
	}
	return vql.NewDict().Set("theme", o.Theme).Set("timezone", o.Timezone).Set("lang", o.Lang).Set("org", o.Org).Set("links", links), nil
}

// ownProfile lets people at what they keep for themselves, and administrators at
// what others do.
func ownProfile(scope *vql.Scope, user string) (*Host, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	if user != h.Principal {
		if err := need(scope, users.ServerAdmin); err != nil {
			return nil, err
		}
	}
	_, err = h.Users.Account(user)
	return h, err
}

type userMessageArgs struct {
	User    string    `vql:"user,required" doc:"Who is told."`
	Message *vql.Dict `vql:"message" doc:"What they are told. Any further keyword counts too."`
	Rest    vql.Rest
}

var userMessageFunction = vql.NewFunction(vql.Spec{
	Name: "user_message",
	Doc:  "Tells a user something, in the name of whoever runs the query. An account keeps the newest 50 messages; user_messages() lists them.",
}, func(ctx context.Context, scope *vql.Scope, args *userMessageArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	message := args.Rest.Dict(ctx, scope)
	if args.Message != nil {
		for _, key := range args.Message.Keys() {
			value, _ := args.Message.Get(key)
			message.Set(key, scope.Real(ctx, value))
		}
	}
	if message.Len() == 0 {
		return nil, fmt.Errorf("nothing to tell: %w", ErrArgument)
	}
	m, err := h.Users.PlanMessage(args.User, string(vql.AppendJSON(nil, message)))
	if err != nil {
		return nil, err
	}
	return true, h.change(ctx, m, "user.message", args.User, nil)
})

type userMessagesArgs struct {
	User string `vql:"user" doc:"The account (the caller's own)."`
}

var userMessagesPlugin = vql.NewPlugin(vql.Spec{
	Name: "user_messages", Columns: []string{"Timestamp", "Sender", "Message"},
	Doc: "Lists what a user was told, the oldest first: the newest 50 messages. Another's need SERVER_ADMIN.",
}, func(_ context.Context, scope *vql.Scope, args *userMessagesArgs, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	if args.User == "" {
		args.User = h.Principal
	}
	if h, err = ownProfile(scope, args.User); err != nil {
		return err
	}
	for _, m := range h.Users.Messages(args.User) {
		said, err := decodeRow(m.JSON)
		if err != nil {
			return fmt.Errorf("message of %s: %w", m.From, err)
		}
		if err := emit(vql.NewDict().Set("Timestamp", m.Sent).Set("Sender", m.From).Set("Message", said)); err != nil {
			return err
		}
	}
	return nil
})

type favoriteSaveArgs struct {
	Name        string   `vql:"name,required" doc:"What it is called."`
	Description string   `vql:"description" doc:"What it is good for."`
	Specs       vql.Lazy `vql:"specs,required" doc:"What is to be collected: specs as the GUI has them, or any value."`
	Type        string   `vql:"type,required" doc:"The type of its artifacts, as CLIENT. A name counts once in each type."`
}

var favoritesSaveFunction = vql.NewFunction(vql.Spec{
	Name: "favorites_save",
	Doc:  "Saves a collection for whoever runs the query, in place of one of that name and type. An account keeps 200.",
}, func(ctx context.Context, scope *vql.Scope, args *favoriteSaveArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	spec := scope.Real(ctx, args.Specs.Value(ctx, scope))
	m, err := h.Users.PlanFavorite(h.Principal, users.Favorite{
		Type: args.Type, Name: args.Name, Description: args.Description, Spec: json.RawMessage(vql.AppendJSON(nil, spec)),
	})
	if err != nil {
		return nil, err
	}
	return vql.NewDict().Set("name", args.Name).Set("spec", spec), h.change(ctx, m, "favorite.save", args.Name, map[string]string{"type": args.Type})
})

type favoriteDeleteArgs struct {
	Name string `vql:"name,required" doc:"What it is called."`
	Type string `vql:"type,required" doc:"Its type."`
}

var favoritesDeleteFunction = vql.NewFunction(vql.Spec{
	Name: "favorites_delete", Doc: "Forgets a collection that whoever runs the query had saved.",
}, func(ctx context.Context, scope *vql.Scope, args *favoriteDeleteArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	m, err := h.Users.PlanUnfavorite(h.Principal, args.Type, args.Name)
	if err != nil {
		return nil, err
	}
	return true, h.change(ctx, m, "favorite.delete", args.Name, map[string]string{"type": args.Type})
})

type favoritesListArgs struct {
	Type string `vql:"type" doc:"Of this type alone."`
}

var favoritesListPlugin = vql.NewPlugin(vql.Spec{
	Name: "favorites_list", Columns: []string{"name", "description", "type", "spec"},
	Doc: "Lists the collections that whoever runs the query has saved, by type and name.",
}, func(_ context.Context, scope *vql.Scope, args *favoritesListArgs, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	for _, f := range h.Users.Favorites(h.Principal) {
		if args.Type != "" && args.Type != f.Type {
			continue
		}
		spec, err := decodeJSON(f.Spec)
		if err != nil {
			return fmt.Errorf("favorite %s: %w", f.Name, err)
		}
		row := vql.NewDict().Set("name", f.Name).Set("description", f.Description).Set("type", f.Type).Set("spec", spec)
		if err := emit(row); err != nil {
			return err
		}
	}
	return nil
})
