package artifacts

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parameterTypes are the types that mean something; any other is a text, too.
var parameterTypes = strings.Fields("string str regex yara hidden choices redacted glob int int64 integer float bool timestamp csv artifactset json json_array regex_array multichoice yaml xml upload upload_file server_metadata starlark")

// parameters looks for what loads and is a mistake nevertheless: names that stand
// twice, unknown types, and defaults that their type cannot take.
func (c *checker) parameters() {
	seen := map[string]bool{}
	for i := range c.d.Parameters {
		p, key := &c.d.Parameters[i], fmt.Sprintf("parameters[%d]", i)
		if seen[p.Name] {
			c.report(c.d.line(key+".name"), "duplicate_parameter", p.Name, "%s: the name %s stands twice", key, p.Name)
		}
		seen[p.Name] = true
		if p.Type != "" && !slices.Contains(parameterTypes, strings.ToLower(p.Type)) {
			c.report(c.d.line(key+".type"), "unknown_type", p.Name, "%s: unknown type %.40q: the value stays a text", key, p.Type)
		}
		if err := badDefault(p); err != nil {
			c.report(c.d.line(key+".default"), "invalid_default", p.Name, "%s: default of %s: %s", key, p.Name, err)
		}
		if _, err := regexp.Compile(p.ValidatingRegex); err != nil {
			c.report(c.d.line(key+".validating_regex"), "invalid_pattern", p.Name, "%s: validating_regex of %s: %s", key, p.Name, err)
		}
	}
}

// badDefault says why a default does not fit its type. An empty one is no value.
func badDefault(p *Parameter) error {
	text := strings.TrimSpace(p.Default)
	if text == "" {
		return nil
	}
	switch strings.ToLower(p.Type) {
	case "int", "int64", "integer":
		_, err := strconv.ParseInt(text, 0, 64)
		return expected(err, text, "a whole number")
	case "float":
		_, err := strconv.ParseFloat(text, 64)
		return expected(err, text, "a number")
	case "regex":
		_, err := regexp.Compile(p.Default)
		return err
	case "json", "json_array", "multichoice":
		var value json.RawMessage
		return json.Unmarshal([]byte(text), &value)
	case "regex_array":
		return badPatterns(text)
	case "yaml":
		var node yaml.Node
		return yaml.Unmarshal([]byte(text), &node)
	case "choices":
		if len(p.Choices) > 0 && !slices.Contains(p.Choices, p.Default) {
			return fmt.Errorf("%.40q is none of the choices", p.Default)
		}
	}
	return nil
}

func expected(err error, text, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%.40q: expected %s", text, what)
}

func badPatterns(text string) error {
	var patterns []string
	if err := json.Unmarshal([]byte(text), &patterns); err != nil {
		return err
	}
	for _, pattern := range patterns {
		if _, err := regexp.Compile(pattern); err != nil {
			return err
		}
	}
	return nil
}

// sourceNames warns of sources that share a name: their rows end in one file.
func (c *checker) sourceNames() {
	seen := map[string]bool{}
	for i := range c.d.Sources {
		s := &c.d.Sources[i]
		if seen[s.Name] && s.Name != "" {
			line := c.d.line(fmt.Sprintf("sources[%d].name", i))
			c.report(line, "duplicate_source", s.Name, "sources[%d]: an earlier source has the name %q, too: their rows mix", i, s.Name)
		}
		seen[s.Name] = true
	}
}

var sha256Text = regexp.MustCompile(`^[0-9A-Fa-f]{64}$`)

// tools looks for what no server could fetch or trust.
func (c *checker) tools() {
	for i := range c.d.Tools {
		t, key := &c.d.Tools[i], fmt.Sprintf("tools[%d]", i)
		if t.URL != "" {
			if u, err := url.Parse(t.URL); err != nil || u.Host == "" {
				c.report(c.d.line(key+".url"), "invalid_tool", t.Name, "%s: url: %.80q is no address", key, t.URL)
			}
		}
		if t.ExpectedHash != "" && !sha256Text.MatchString(t.ExpectedHash) {
			c.report(c.d.line(key+".expected_hash"), "invalid_tool", t.Name, "%s: expected_hash: %.80q is no SHA-256 in hex", key, t.ExpectedHash)
		}
		if _, err := regexp.Compile(t.GithubAssetRegex); err != nil {
			c.report(c.d.line(key+".github_asset_regex"), "invalid_tool", t.Name, "%s: github_asset_regex: %s", key, err)
		}
	}
}

// leadsBack reports whether calling an artifact comes to the one that is judged.
// What cannot be compiled calls nothing.
func (c *checker) leadsBack(callee *entry) bool {
	if callee.Name == c.d.Name {
		return true
	}
	if c.walked[callee.Name] {
		return false
	}
	c.walked[callee.Name] = true
	code, err := callee.compile()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(code.calls, func(name string) bool {
		next, err := c.repository.longestMatch(name)
		return err == nil && c.leadsBack(next)
	})
}
