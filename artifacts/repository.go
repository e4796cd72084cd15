package artifacts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
)

// customPrefix is what an operator puts in front of a built-in's name to change it.
const customPrefix = "Custom."

// Repository holds definitions by name and alias. Safe for concurrent use.
type Repository struct {
	parent *Repository // asked for names that are not here
	over   bool        // names of parent may be defined anew

	mu          sync.RWMutex
	definitions map[string]*entry
	added       int // definitions so far
}

// entry is a definition with what is worked out from it when first used.
type entry struct {
	*Definition
	serial   int // in the order of adding
	once     sync.Once
	compiled *compiled
	err      error
}

// NewRepository makes an empty repository; parent may be nil, and its names
// cannot be replaced.
func NewRepository(parent *Repository) *Repository {
	return &Repository{parent: parent, definitions: map[string]*entry{}}
}

// Over makes an empty repository whose definitions are stronger than parent's, which
// stays as it is and may be nil.
func Over(parent *Repository) *Repository {
	r := NewRepository(parent)
	r.over = true
	return r
}

// Taken is the error of Add for a definition whose name or alias another one has.
type Taken struct {
	Line int // of the name or alias in the definition's file
	Err  error
}

// Error implements error.
func (e *Taken) Error() string { return e.Err.Error() }

// Unwrap gives ErrBuiltIn or ErrInvalid.
func (e *Taken) Unwrap() error { return e.Err }

// Add takes a definition, replacing one of the same name in this repository. The
// error is a *Taken.
func (r *Repository) Add(d *Definition) error {
	taken := func(key, format string, args ...any) error {
		return &Taken{d.line(key), fmt.Errorf("add artifact %s: "+format, append([]any{d.Name}, args...)...)}
	}
	if r.parent != nil && !r.over {
		for i, name := range append([]string{d.Name}, d.Aliases...) {
			if _, err := r.parent.Lookup(name); err == nil {
				return taken(nameKey(i), "%s: %w", name, ErrBuiltIn)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, alias := range d.Aliases {
		if other := r.definitions[alias]; other != nil && other.Name != d.Name {
			return taken(nameKey(i+1), "alias %s is taken by %s: %w", alias, other.Name, ErrInvalid)
		}
	}
	if other := r.definitions[d.Name]; other != nil && other.Name != d.Name {
		return taken("name", "the name is an alias of %s: %w", other.Name, ErrInvalid)
	}
	r.drop(d.Name)
	r.added++
	e := &entry{Definition: d, serial: r.added}
	r.definitions[d.Name] = e
	for _, alias := range d.Aliases {
		r.definitions[alias] = e
	}
	return nil
}

// nameKey is the field of the name, 0, or of an alias, from 1.
func nameKey(i int) string {
	if i == 0 {
		return "name"
	}
	return fmt.Sprintf("aliases[%d]", i-1)
}

// Remove forgets a definition and its aliases.
func (r *Repository) Remove(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.definitions[name] == nil {
		return fmt.Errorf("remove artifact %.80q: %w", name, ErrUnknown)
	}
	r.drop(r.definitions[name].Name)
	return nil
}

func (r *Repository) drop(name string) {
	maps.DeleteFunc(r.definitions, func(_ string, e *entry) bool { return e.Name == name })
}

// Lookup returns the definition of a name or alias.
func (r *Repository) Lookup(name string) (*Definition, error) {
	e, err := r.entry(name)
	if err != nil {
		return nil, err
	}
	return e.Definition, nil
}

func (r *Repository) entry(name string) (*entry, error) {
	for ; r != nil; r = r.parent {
		r.mu.RLock()
		e := r.definitions[name]
		r.mu.RUnlock()
		if e != nil {
			return e, nil
		}
	}
	return nil, fmt.Errorf("artifact %.80q: %w", name, ErrUnknown)
}

// List returns all definitions by name, built-ins included, each once.
func (r *Repository) List() []*Definition {
	all := map[string]*Definition{}
	for ; r != nil; r = r.parent {
		r.mu.RLock()
		for _, e := range r.definitions {
			if all[e.Name] == nil {
				all[e.Name] = e.Definition
			}
		}
		r.mu.RUnlock()
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *Definition) int { return strings.Compare(a.Name, b.Name) })
}

// LoadFS reads all .yaml and .yml files of a tree. Files that are no artifacts
// are reported together; all others are loaded nevertheless.
func (r *Repository) LoadFS(tree fs.FS, builtIn bool) (loaded int, err error) {
	return r.load(tree, builtIn, Parse)
}

func (r *Repository) load(tree fs.FS, builtIn bool, parse func(string, []byte) (*Definition, error)) (loaded int, err error) {
	var broken []error
	walkErr := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || !isYAML(path.Base(name)) {
			return nil
		}
		text, err := readBounded(tree, name)
		if err != nil {
			return err
		}
		definition, err := parse(name, text)
		if err == nil {
			definition.BuiltIn = builtIn
			err = r.Add(definition)
		}
		if err != nil {
			broken = append(broken, err)
			return nil
		}
		loaded++
		return nil
	})
	if walkErr != nil {
		return loaded, fmt.Errorf("load artifacts: %w", walkErr)
	}
	return loaded, errors.Join(broken...)
}

// readBounded reads a file, and no more of it than shows that it has too much.
func readBounded(tree fs.FS, name string) ([]byte, error) {
	file, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	return text, errors.Join(err, file.Close())
}

// StandsFor reports whether d is taken where one of names is asked for with
// Collect.AllowCustom.
func (d *Definition) StandsFor(names []string) bool {
	return slices.ContainsFunc(append([]string{d.Name}, d.Aliases...), func(own string) bool {
		name, custom := strings.CutPrefix(own, customPrefix)
		return custom && slices.Contains(names, name)
	})
}
