package hunts

import (
	"context"
	"errors"
	"fmt"
	"time"

	"raptorpack/clients"
	"raptorpack/vql"
)

// filterLimits bound a filter over the rows of one client.
var filterLimits = vql.Limits{Timeout: 10 * time.Second, MaxRows: 1, SpillBytes: 4 << 20}

// filter is a server-side query over what clients answer. It may use the language, and
// nothing that needs a permission.
type filter struct {
	engine  *vql.Engine
	program *vql.Program
}

// CheckFilter refuses, as ErrInvalid, a filter that does not parse.
func CheckFilter(text string) error {
	_, err := newFilter(nil, text)
	return err
}

func newFilter(engine *vql.Engine, text string) (*filter, error) {
	program, err := vql.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("filter: %w: %w", ErrInvalid, err)
	}
	return &filter{engine, program}, nil
}

// nothing allows nothing.
type nothing struct{}

// Allowed implements vql.Permissions.
func (nothing) Allowed(string) bool { return false }

// passes reports whether the filter leaves a row, with what it logged as an error if it
// logged one.
func (f *filter) passes(ctx context.Context, rows [][]byte, client *clients.Record) (bool, error) {
	env := vql.NewDict()
	all := make([]vql.Value, len(rows))
	for i, line := range rows {
		row := vql.NewDict()
		if err := row.UnmarshalJSON(line); err != nil {
			return false, fmt.Errorf("row %d: %w", i+1, err)
		}
		all[i] = row
	}
	env.Set("rows", all)
	env.Set("client", about(client))
	var trouble error
	scope := f.engine.NewScope(vql.SessionOptions{
		Env: env, Permissions: nothing{}, Limits: filterLimits,
		Log: func(level, message string) {
			if level == vql.LevelError && trouble == nil {
				trouble = errors.New(message)
			}
		},
	})
	defer scope.Close()
	passed := false
	err := scope.RunProgram(ctx, f.program, func(*vql.Dict) error {
		passed = true
		return vql.ErrStop
	})
	if passed {
		return true, nil
	}
	if errors.Is(err, vql.ErrStop) {
		err = nil
	}
	return false, errors.Join(err, trouble)
}

// about is what a filter is told of a client, by the names of the plugin clients().
func about(r *clients.Record) *vql.Dict {
	system := vql.NewDict()
	for _, one := range []struct{ name, value string }{
		{"system", r.System}, {"hostname", r.Hostname}, {"fqdn", r.FQDN}, {"release", r.Release}, {"machine", r.Architecture},
	} {
		system.Set(one.name, one.value)
	}
	labels := make([]vql.Value, len(r.Labels))
	for i, label := range r.Labels {
		labels[i] = label
	}
	metadata := vql.NewDict()
	for name, value := range r.Metadata {
		metadata.Set(name, value)
	}
	out := vql.NewDict()
	out.Set("client_id", r.Client.String())
	out.Set("os_info", system)
	out.Set("labels", labels)
	out.Set("metadata", metadata)
	return out
}
