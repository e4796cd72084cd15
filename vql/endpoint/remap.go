package endpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"raptorpack/vql"
)

type remapArgs struct {
	Config string   `vql:"config,required" doc:"The remapping, in YAML."`
	Copy   []string `vql:"copy" doc:"Accessors that stay as they are."`
	Clear  bool     `vql:"clear" doc:"Forget what was remapped before."`
}

// remapConfig is the YAML of remap().
type remapConfig struct {
	Remappings []remapRule `yaml:"remappings"`
}

type remapRule struct {
	Type        string     `yaml:"type"` // mount, shadow, impersonation or permissions
	Description string     `yaml:"description"`
	From        remapPoint `yaml:"from"`
	On          remapPoint `yaml:"on"`

	// Of an impersonation.
	OS                string     `yaml:"os"`
	Hostname          string     `yaml:"hostname"`
	Env               []remapEnv `yaml:"env"`
	DisabledFunctions []string   `yaml:"disabled_functions"`
	DisabledPlugins   []string   `yaml:"disabled_plugins"`

	Permissions []string `yaml:"permissions"`
}

type remapPoint struct {
	Accessor string `yaml:"accessor"`
	Prefix   string `yaml:"prefix"`
	PathType string `yaml:"path_type"`
}

type remapEnv struct {
	Key   string `yaml:"key"`
	Value string `yaml:"value"`
}

// maxRemappings bounds the rules of a remapping.
const maxRemappings = 10_000

var (
	errNoRemapping = errors.New("it holds no remappings")
	errNotMapped   = errors.New("the remapping does not have it")
)

var remapFunction = vql.NewFunction(vql.Spec{
	Name: "remap", Permission: "FILESYSTEM_READ",
	Doc: "Puts a remapping in place of the session's accessors, as for the disk of another machine: mounts, shadows, impersonation, the permissions that are left. " +
		"What it does not name can no longer be opened.",
}, func(_ context.Context, scope *vql.Scope, args *remapArgs) (vql.Value, error) {
	var config remapConfig
	if err := yaml.Unmarshal([]byte(args.Config), &config); err != nil {
		return nil, err
	}
	if len(config.Remappings) == 0 || len(config.Remappings) > maxRemappings {
		return nil, fmt.Errorf("%d remappings: %w", len(config.Remappings), errNoRemapping)
	}
	m, err := newRemapping(scope, args.Clear)
	if err != nil {
		return nil, err
	}
	for i := range config.Remappings {
		if err := m.add(&config.Remappings[i]); err != nil {
			return nil, fmt.Errorf("remapping %d: %w", i+1, err)
		}
	}
	return nil, m.install(scope, args.Copy)
})

type remappingKey struct{}

// remapping is what a session sees in place of this machine. It is not changed
// after it was installed.
type remapping struct {
	// host is a session of its own with the accessors as they were. What is mounted
	// is opened there: here, the name of its accessor may mean the mount itself.
	host     *vql.Scope
	mounts   map[string][]mountPoint // by accessor
	syntax   map[string]vql.PathSyntax
	shadows  map[string]vql.Accessor
	os       string
	hostname string
	env      map[string]string

	permissions []string // the only ones left; nil leaves all
}

// newRemapping starts from the one that the session has, unless that is cleared.
func newRemapping(scope *vql.Scope, clear bool) (*remapping, error) {
	before := remappingOf(scope)
	m := &remapping{mounts: map[string][]mountPoint{}, syntax: map[string]vql.PathSyntax{}, shadows: map[string]vql.Accessor{}, env: map[string]string{}}
	if before != nil {
		m.host = before.host
		if !clear {
			for name, points := range before.mounts {
				m.mounts[name], m.syntax[name] = slices.Clone(points), before.syntax[name]
			}
			for name, a := range before.shadows {
				m.shadows[name] = a
			}
			for key, value := range before.env {
				m.env[key] = value
			}
			m.os, m.hostname, m.permissions = before.os, before.hostname, before.permissions
		}
		return m, nil
	}
	options := *scope.Session()
	options.Limits.Timeout, options.Limits.ProgressTimeout = 0, 0 // those of the caller's session count
	m.host = scope.Engine().NewScope(options)
	scope.OnRootClose(m.host.Close)
	return m, nil
}

// remappingOf returns the session's remapping, nil when it has none.
func remappingOf(scope *vql.Scope) *remapping {
	v, err := scope.Cache().Get(remappingKey{}, func() (any, error) { return nil, errNotMapped })
	if err != nil {
		return nil
	}
	return v.(*remapping)
}

func (m *remapping) add(rule *remapRule) error {
	switch rule.Type {
	case "mount":
		return m.addMount(rule)
	case "shadow":
		a, err := m.host.Accessor(rule.From.Accessor)
		if err != nil {
			return err
		}
		if rule.On.Accessor == "" {
			rule.On.Accessor = rule.From.Accessor
		}
		m.shadows[rule.On.Accessor] = a
		return nil
	case "impersonation":
		m.os, m.hostname = rule.OS, rule.Hostname
		for _, e := range rule.Env {
			m.env[e.Key] = e.Value
		}
		if n := len(rule.DisabledFunctions) + len(rule.DisabledPlugins); n > 0 {
			m.host.Log(vql.LevelWarn, "remap: %d disabled primitives stay: a session's primitives cannot be changed", n)
		}
		return nil
	case "permissions":
		m.permissions = append(slices.Clip(m.permissions), rule.Permissions...)
		if m.permissions == nil {
			m.permissions = []string{} // a list without names allows none
		}
		return nil
	}
	return fmt.Errorf("unknown type %q", rule.Type)
}

func (m *remapping) addMount(rule *remapRule) error {
	from, err := m.host.Accessor(rule.From.Accessor)
	if err != nil {
		return fmt.Errorf("from: %w", err)
	}
	root, err := from.ParsePath(strings.TrimSpace(rule.From.Prefix))
	if err != nil {
		return fmt.Errorf("from: %w", err)
	}
	name := rule.On.Accessor
	if name == "" {
		return errors.New("on: the accessor is missing")
	}
	syntax, ok := vql.SyntaxByName(rule.On.PathType)
	if !ok {
		if rule.On.PathType != "" {
			return fmt.Errorf("on: unknown path_type %q", rule.On.PathType)
		}
		syntax = m.syntaxOf(name)
	}
	m.syntax[name] = syntax
	m.mounts[name] = append(m.mounts[name], mountPoint{
		at: syntax.Split(strings.TrimSpace(rule.On.Prefix)), accessor: from, root: root,
	})
	return nil
}

// syntaxOf is how the paths of an accessor are written unless a mount says so.
func (m *remapping) syntaxOf(name string) vql.PathSyntax {
	if syntax := m.syntax[name]; syntax != nil {
		return syntax
	}
	if a, err := m.host.Accessor(name); err == nil {
		if path, err := a.ParsePath("x"); err == nil {
			return path.Syntax()
		}
	}
	return vql.PathGeneric
}

// install puts the remapping in place. Texts of the query are no part of the
// machine and stay.
func (m *remapping) install(scope *vql.Scope, stays []string) error {
	before := scope.Session().Accessors
	for _, name := range stays {
		if before[name] == nil {
			return fmt.Errorf("copy: %w %s", vql.ErrNoAccessor, name)
		}
	}
	for name, a := range before {
		switch {
		case slices.Contains(stays, name) || name == "data" || name == "scope":
			scope.SetAccessor(name, a)
		default:
			scope.SetAccessor(name, elsewhereAccessor{name, m.syntaxOf(name), errNotMapped})
		}
	}
	for name, a := range m.shadows {
		scope.SetAccessor(name, a)
	}
	for name, points := range m.mounts {
		scope.SetAccessor(name, &mountAccessor{host: m.host, syntax: m.syntax[name], points: points})
	}
	scope.Cache().Set(remappingKey{}, m)
	scope.Restrict(m.permissions)
	return nil
}

// impersonate changes what a row of info() tells.
func (m *remapping) impersonate(row *vql.Dict) {
	if m == nil {
		return
	}
	if m.os != "" {
		row.Update("OS", m.os)
	}
	if m.hostname != "" {
		row.Update("Hostname", m.hostname)
		row.Update("Fqdn", m.hostname)
	}
}

// lookupEnv looks a variable up: the other machine's, where there is one.
func (m *remapping) lookupEnv(name string) (string, bool) {
	if m == nil || len(m.env) == 0 {
		return os.LookupEnv(name)
	}
	for key, value := range m.env {
		if strings.EqualFold(key, name) {
			return value, true
		}
	}
	return "", false
}
