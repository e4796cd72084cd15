package artifacts

import (
	"encoding/json"
	"fmt"

	"raptorpack/vql"
)

// CompileQuery turns statements that are no artifact into a request of one query, with
// the artifacts that they call. name is what they are told as, in logs and errors. What
// does not parse is ErrInvalid.
func (r *Repository) CompileQuery(name, text string) (*Request, error) {
	if _, err := vql.Parse(text); err != nil {
		return nil, fmt.Errorf("compile %s: %w: %w", name, ErrInvalid, err)
	}
	file, err := json.Marshal(map[string]any{"name": name, "sources": []any{map[string]string{"query": text}}}) // JSON is YAML
	if err != nil {
		return nil, fmt.Errorf("compile %s: %w: %w", name, ErrInvalid, err)
	}
	d, err := Parse(name, file)
	if err != nil {
		return nil, err
	}
	own := NewRepository(r)
	if err := own.Add(d); err != nil {
		return nil, err
	}
	return own.Compile(Collect{Artifacts: []Spec{{Name: name}}})
}
