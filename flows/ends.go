package flows

import (
	"encoding/json"
	"slices"
	"strings"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

// endName is the name of the extents in the file of a hunt's flows.
const endName = "end"

// endRecord is how a flow of a hunt ended, as the node saw it that heard of it: for
// people with a shell, who find no flow.json of each client there. Nothing reads it
// back; the ledger knows better.
type endRecord struct {
	Outcome     string `json:"outcome"` // ok, error, unknown, limit
	Error       string `json:"error,omitempty"`
	Rows        int64  `json:"rows"` // this and what follows as the client counts
	Logs        int64  `json:"logs"`
	Uploads     int64  `json:"uploads"`
	UploadBytes int64  `json:"upload_bytes"`
	FirstActive int64  `json:"first_active,omitempty"` // unix microseconds, the client's clock
	Duration    int64  `json:"duration_ns"`            // of its longest query
	CPU         *int64 `json:"cpu_ns,omitempty"`       // of all queries; left out: the client tells none
}

// records are the records of the ends that a packet tells of a flow of a hunt. Each
// outcome has a number of its own: one that is told again is the same record, and a
// stronger one stands beside it.
func (p *part) records() []filestore.Append {
	if p.f.Spec.Hunt.IsZero() {
		return nil
	}
	var out []filestore.Append
	for _, change := range p.facts {
		end := change.GetEnd()
		if end == nil {
			continue
		}
		t := end.GetTotals()
		text, err := json.Marshal(endRecord{
			Outcome: outcomeName(end.Outcome), Error: end.Error, Rows: t.GetRows(), Logs: t.GetLogs(), Uploads: t.GetUploads(),
			UploadBytes: t.GetUploadBytes(), FirstActive: end.FirstActive, Duration: end.Duration, CPU: end.CpuNs,
		})
		if err != nil {
			continue // numbers and valid text: does not happen
		}
		out = append(out, filestore.Append{
			Set: filestore.HuntFlows(p.f.Org, p.f.Spec.Hunt), Lines: append(slices.Concat([]byte("{"), p.splice(), []byte(","), text[1:]), '\n'),
			Extent: filestore.Extent{Client: p.key.Client, Flow: p.key.Flow, Name: endName, FirstRow: int64(end.Outcome), Rows: 1},
		})
	}
	return out
}

func outcomeName(o buspb.FlowEnd_Outcome) string {
	return strings.ToLower(strings.TrimPrefix(o.String(), "OUTCOME_"))
}
