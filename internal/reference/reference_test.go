package reference_test

import (
	_ "embed"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"raptorpack/collector"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
	"raptorpack/vql/server"
)

//go:embed testdata/stages.txt
var stages string

// primitive is one line of the contract.
type primitive struct {
	stage             int
	kind, name        string
	permission        string
	args              []vql.Arg
	anyFurtherKeyword bool
}

func (p *primitive) String() string { return p.kind + " " + p.name }

// contract reads testdata/stages.txt.
func contract(t *testing.T) []primitive {
	t.Helper()
	var out []primitive
	for line := range strings.Lines(stages) {
		words := strings.Fields(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		if len(words) < 4 {
			t.Fatalf("a line of the contract has too few words: %q", line)
		}
		stage, err := strconv.Atoi(words[0])
		if err != nil {
			t.Fatalf("stage of %q: %v", line, err)
		}
		p := primitive{stage: stage, kind: words[1], name: words[2], permission: words[3]}
		for _, word := range words[4:] {
			p.argument(t, word)
		}
		out = append(out, p)
	}
	return out
}

func (p *primitive) argument(t *testing.T, word string) {
	t.Helper()
	if word == "**" {
		p.anyFurtherKeyword = true
		return
	}
	name, kind, ok := strings.Cut(word, ":")
	if !ok {
		t.Fatalf("%s: argument %q has no type", p, word)
	}
	name, required := strings.CutSuffix(name, "*")
	p.args = append(p.args, vql.Arg{Name: name, Type: kind, Required: required})
}

// declared lists what queries may call by kind and name, on endpoints and servers.
// Where both have it, the server's counts: it has the permission.
func declared(t *testing.T) map[string]vql.Entry {
	t.Helper()
	plugins := append(endpoint.Plugins(), collector.Plugin)
	agent, err := vql.NewEngine(endpoint.Functions(), plugins)
	if err != nil {
		t.Fatal(err)
	}
	functions, plugins := server.Guard(endpoint.Functions(), plugins)
	node, err := vql.NewEngine(append(functions, server.Functions()...), append(plugins, server.Plugins()...))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]vql.Entry{}
	for _, e := range slices.Concat(agent.Reference(), node.Reference()) {
		out[e.Kind+" "+e.Name] = e
	}
	return out
}

func TestStagesHoldAsManyPrimitivesAsTheContractSays(t *testing.T) {
	counts := map[int]int{}
	seen := map[string]bool{}
	for _, p := range contract(t) {
		counts[p.stage]++
		if seen[p.String()] {
			t.Errorf("%s stands there twice", &p)
		}
		seen[p.String()] = true
	}
	if want := map[int]int{50: 61, 80: 74, 95: 64}; !maps.Equal(counts, want) {
		t.Errorf("stages have %v primitives, want %v", counts, want)
	}
}

func TestEachPrimitiveIsDeclaredAsTheContractSays(t *testing.T) {
	have := declared(t)
	found := map[string]bool{}
	for _, p := range contract(t) {
		if p.kind == "accessor" {
			continue
		}
		e, ok := have[p.String()]
		if !ok {
			t.Errorf("stage %d: %s is missing", p.stage, &p)
			continue
		}
		for _, difference := range differences(&p, e) {
			found[difference] = true
			if deviations[difference] == "" {
				t.Errorf("stage %d: %s", p.stage, difference)
			}
		}
	}
	for difference := range deviations {
		if !found[difference] {
			t.Errorf("no longer so: %s", difference)
		}
	}
}

// differences lists in words where a declaration leaves the contract.
func differences(p *primitive, e vql.Entry) []string {
	var out []string
	say := func(words ...string) { out = append(out, p.String()+": "+strings.Join(words, " ")) }
	for _, want := range p.args {
		at := slices.IndexFunc(e.Args, func(a vql.Arg) bool { return a.Name == want.Name })
		if at < 0 {
			say("argument", want.Name, "is missing")
			continue
		}
		if got := e.Args[at]; got.Type != want.Type {
			say(want.Name, "is", got.Type, "not", want.Type)
		} else if got.Required != want.Required {
			say(want.Name, "is required:", strconv.FormatBool(got.Required))
		}
	}
	for _, got := range e.Args {
		if !slices.ContainsFunc(p.args, func(a vql.Arg) bool { return a.Name == got.Name }) {
			say("argument", got.Name, "is one more")
		}
	}
	if e.FreeForm != p.anyFurtherKeyword {
		say("takes any further keyword:", strconv.FormatBool(e.FreeForm))
	}
	if got := orNone(e.Permission); got != p.permission {
		say("needs", got, "not", p.permission)
	}
	if len(e.Platforms) > 0 && !slices.Contains(e.Platforms, "linux") {
		say("is known by name alone")
	}
	return out
}

func orNone(permission string) string {
	if permission == "" {
		return "-"
	}
	return permission
}

func TestEachAccessorOfTheContractIsThere(t *testing.T) {
	onEndpoints := endpoint.Accessors()
	onServers := server.Accessors(onEndpoints)
	ofServersAlone := []string{"fs", "vfs"}
	for _, p := range contract(t) {
		if p.kind != "accessor" {
			continue
		}
		if _, ok := onServers[p.name]; !ok {
			t.Errorf("stage %d: %s is missing on servers", p.stage, &p)
		}
		if _, ok := onEndpoints[p.name]; ok == slices.Contains(ofServersAlone, p.name) {
			t.Errorf("stage %d: %s on endpoints: %t", p.stage, &p, ok)
		}
	}
}
