package inventory

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/artifacts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// PlanSet makes an operator's definition, which counts before what artifacts say.
// The file of the tool stays if it is what the definition speaks of. A hash that
// came and was not expected is accepted by expecting it.
func (r *Room) PlanSet(org ids.Org, t artifacts.Tool, setter string) (*buspb.Mutation, error) {
	t = tidy(t)
	if err := check(&t); err != nil {
		return nil, err
	}
	return mutation(org, &buspb.ToolChange{Change: &buspb.ToolChange_Set{Set: &buspb.ToolSet{Definition: protoOf(&t), Setter: setter}}})
}

func tidy(t artifacts.Tool) artifacts.Tool {
	t.ExpectedHash = strings.ToLower(t.ExpectedHash)
	return t
}

// PlanDelete forgets what operators did with a tool: definition and file. What
// artifacts say of it counts again. An empty version is the highest.
func (r *Room) PlanDelete(org ids.Org, name, version, setter string) (*buspb.Mutation, error) {
	t, err := r.Lookup(org, name, version)
	if err != nil {
		return nil, err
	}
	if !r.holds(Key{org, name, t.Version}) {
		return nil, fmt.Errorf("delete tool %s: it is what the artifact %s says of it: %w", name, t.Artifact, ErrUnknown)
	}
	return mutation(org, &buspb.ToolChange{Change: &buspb.ToolChange_Delete{Delete: &buspb.ToolDelete{Name: name, Version: t.Version, Setter: setter}}})
}

func (r *Room) holds(key Key) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.records[key] != nil
}

// Upload is an operator's file for a tool.
type Upload struct {
	Name     string
	Version  string // empty: the highest that is known
	Filename string // empty: as the tool says, or as it came
	File     Received
	Setter   string
}

// PlanUpload makes a file that is durable the tool's own, served by this pack. It
// is taken in spite of any hash that was expected: an administrator knows best.
// named reports whether the mutation names the very file; otherwise it shares that
// of a tool with the same bytes, and the file has to be dropped. ErrChanged from the
// ledger says that this other one has gone meanwhile: plan again.
func (r *Room) PlanUpload(org ids.Org, u Upload) (m *buspb.Mutation, named bool, err error) {
	t := artifacts.Tool{Name: u.Name, Version: u.Version}
	if known, err := r.Lookup(org, u.Name, u.Version); err == nil {
		t = known.Tool
	}
	// An uploaded file has no other source: nothing fetches over it.
	t.URL, t.GithubProject, t.GithubAssetRegex, t.ServeLocally, t.ExpectedHash = "", "", "", true, u.File.Hash
	if u.Filename != "" {
		t.Filename = u.Filename
	}
	if err := check(&t); err != nil {
		return nil, false, err
	}
	stored := r.storedOf(org, &t, u.File)
	stored.Definition, stored.Setter, stored.Filename = protoOf(&t), u.Setter, t.Filename
	m, err = mutation(org, &buspb.ToolChange{Change: &buspb.ToolChange_Stored{Stored: stored}})
	return m, !stored.Shared, err
}

// storedOf tells of a file that is durable; if a tool has the same bytes already,
// its file is shared, and the new one may go.
func (r *Room) storedOf(org ids.Org, t *artifacts.Tool, f Received) *buspb.ToolStored {
	s := &buspb.ToolStored{Name: t.Name, Version: t.Version, Hash: f.Hash, Size: f.Size, Path: f.Path}
	if path, known := r.pathOf(org, f.Hash); known {
		s.Path, s.Shared = path, true
	}
	return s
}

// PlanWant asks the master to fetch a tool. It is refused when the tool says
// nowhere where it comes from.
func (r *Room) PlanWant(org ids.Org, name, version, setter string) (*buspb.Mutation, error) {
	t, err := r.Lookup(org, name, version)
	if err != nil {
		return nil, err
	}
	definition := tidy(t.Tool) // of an artifact: nobody checked it yet
	if err := check(&definition); err != nil {
		return nil, err
	}
	if !hasSource(&definition) {
		return nil, fmt.Errorf("fetch tool %s: it says nowhere where it comes from, an administrator has to upload it: %w", name, ErrMissing)
	}
	return mutation(org, &buspb.ToolChange{Change: &buspb.ToolChange_Want{Want: &buspb.ToolWant{Definition: protoOf(&definition), Setter: setter}}})
}

// PlanFetched tells what a fetch brought; named is as with PlanUpload.
func (r *Room) PlanFetched(w Wanted, f Received, filename string) (m *buspb.Mutation, named bool, err error) {
	stored := r.storedOf(w.Org, &w.Tool, f)
	stored.From, stored.Filename, stored.Want, stored.Setter = sourceOf(&w.Tool), filename, w.Index, w.Setter
	m, err = mutation(w.Org, &buspb.ToolChange{Change: &buspb.ToolChange_Stored{Stored: stored}})
	return m, !stored.Shared, err
}

// PlanFailed tells that a fetch brought nothing, and the hash of what came when it
// was not what was expected.
func PlanFailed(w Wanted, text, hash string) (*buspb.Mutation, error) {
	return mutation(w.Org, &buspb.ToolChange{Change: &buspb.ToolChange_Failed{Failed: &buspb.ToolFailed{
		Name: w.Tool.Name, Version: w.Tool.Version, Want: w.Index, Error: shorten(text), Hash: hash,
	}}})
}

// PlanSwept tells that the files of one org that Unused named are removed.
func PlanSwept(org ids.Org, paths []string) (*buspb.Mutation, error) {
	return mutation(org, &buspb.ToolChange{Change: &buspb.ToolChange_Swept{Swept: &buspb.ToolSwept{Paths: paths}}})
}

// maxSwept keeps a mutation that names files small.
const maxSwept = 1000

// Unused lists the files, by org, that nobody is to be given any more, as of now by
// the ledger's clock.
func (r *Room) Unused(now time.Time) map[ids.Org][]string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := map[ids.Org][]string{}
	for path, u := range r.unused {
		if (!u.Served || now.Sub(u.At) >= KeepReplaced) && len(out[u.Org]) < maxSwept {
			out[u.Org] = append(out[u.Org], path)
		}
	}
	return out
}

func shorten(text string) string {
	if len(text) <= maxError {
		return text
	}
	return strings.ToValidUTF8(text[:maxError], "") + "..."
}

func mutation(org ids.Org, change *buspb.ToolChange) (*buspb.Mutation, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(change)
	if err != nil {
		return nil, fmt.Errorf("encode tool change: %w: %w", ErrInvalid, err)
	}
	return &buspb.Mutation{Kind: Kind, Org: org.String(), Body: body}, nil
}
