package history

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/artifacts"
	"raptorpack/clients"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/inventory"
	"raptorpack/proto/buspb"
	"raptorpack/queues"
	"raptorpack/replication"
	"raptorpack/users"
)

// Entry is one entry of the ledger.
type Entry struct {
	Index       uint64
	Epoch       uint64
	Time        time.Time
	Incarnation string
	Stream      string
	Seq         uint64
	Kind        string
	Principal   string
	RequestID   string `json:"request_id"`
	Body        json.RawMessage
}

// kindEpoch is the first entry of each epoch.
const kindEpoch = "ledger.epoch"

var bodies = map[string]proto.Message{
	clients.Kind: &buspb.ClientChanges{}, flows.Kind: &buspb.FlowsBody{}, flows.MonitoringKind: &buspb.MonitoringBody{},
	users.Kind: &buspb.UserChange{}, artifacts.Kind: &buspb.ArtifactChange{}, inventory.Kind: &buspb.ToolChange{}, queues.Kind: &buspb.QueuesWritten{}, flows.EventDeletionsKind: &buspb.EventsDeleted{},
}

// ReadLedger reads a whole ledger, after having verified it. What could be read
// before an error comes with it.
func ReadLedger(ctx context.Context, store *filestore.Store) ([]Entry, error) {
	_, verified := replication.Verify(ctx, store)
	var lines bytes.Buffer
	err := replication.Cat(ctx, store, &lines, bodies)
	entries, parsed := ParseLedger(&lines)
	for _, problem := range []error{verified, err, parsed} {
		if problem != nil {
			return entries, problem
		}
	}
	return entries, nil
}

// ParseLedger reads the lines that replication.Cat writes.
func ParseLedger(r io.Reader) ([]Entry, error) {
	var all []Entry
	lines := bufio.NewReaderSize(r, 1<<16)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, fmt.Errorf("read ledger: %w", err)
		}
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return all, fmt.Errorf("read ledger: line %d: %w", len(all)+1, err)
		}
		all = append(all, e)
	}
}

// place names an entry for people.
func (e *Entry) place() string { return fmt.Sprintf("entry %d of epoch %d", e.Index, e.Epoch) }

// labelChange is what an entry does to the labels of some clients.
type labelChange struct {
	Clients []string
	Add     []string
	Remove  []string
}

// labels returns what an entry does to labels.
func (e *Entry) labels() []labelChange {
	if e.Kind != clients.Kind {
		return nil
	}
	var body struct {
		Changes []struct{ Label *labelChange }
	}
	if err := json.Unmarshal(e.Body, &body); err != nil {
		return nil // none that this version knows
	}
	var all []labelChange
	for _, c := range body.Changes {
		if c.Label != nil {
			all = append(all, *c.Label)
		}
	}
	return all
}

// token is how changes are marked: Token makes such.
var token = regexp.MustCompile(`\btk-[0-9]+-[0-9a-z]+\b`)

// Token is the mark of the n-th change of somebody.
func Token(n int, who string) string { return fmt.Sprintf("tk-%d-%s", n, who) }

// tokens are the marks of the changes that an entry makes. A label that is taken
// away marks another change.
func (e *Entry) tokens() []string {
	if e.Kind != clients.Kind {
		return unique(token.FindAllString(string(e.Body), -1))
	}
	var all []string
	for _, c := range e.labels() {
		for _, label := range c.Add {
			all = append(all, token.FindAllString(label, -1)...)
		}
	}
	return unique(all)
}

func unique(words []string) []string {
	slices.Sort(words)
	return slices.Compact(words)
}
