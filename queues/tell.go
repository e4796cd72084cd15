package queues

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"raptorpack/artifacts"
	"raptorpack/clients"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/notebooks"
	"raptorpack/proto/buspb"
)

// The queues. Each has a definition of its name among the artifacts.
const (
	FlowCompletion       = "System.Flow.Completion"
	UploadCompletion     = "System.Upload.Completion"
	HuntCreation         = "System.Hunt.Creation"
	ArtifactModification = "Server.Internal.ArtifactModification"
	ClientDelete         = "Server.Internal.ClientDelete"
	Enrollment           = "Server.Internal.Enrollment"
	Interrogation        = "Server.Internal.Interrogation"
	Label                = "Server.Internal.Label"
	Metadata             = "Server.Internal.MetadataModifications"
	TimelineAdd          = "Server.Internal.TimelineAdd"
)

// maxText bounds a definition in a row; a longer one is left to artifact_definitions().
const maxText = 64 << 10

// object is a row's JSON object. Its values are texts, numbers and lists of these.
func object(row any) json.RawMessage {
	raw, err := json.Marshal(row)
	if err != nil { // of such values there is none
		return json.RawMessage(`{}`)
	}
	return raw
}

// FlowsFinished tells of flows that an entry brought to an end, their uploads first
// (flows.Options.Finished).
func (r *Room) FlowsFinished(index uint64, at time.Time, ended []*flows.Flow) {
	items := make([]Item, 0, len(ended))
	for _, f := range ended {
		item := Item{Org: f.Org, Queue: FlowCompletion, Client: f.Client, Flow: f.Flow}
		if f.Uploads.Len() > 0 {
			uploads := item
			uploads.Queue = UploadCompletion
			items = append(items, uploads)
		}
		items = append(items, item)
	}
	r.Tell(index, at, items...)
}

// HuntCreated tells of a hunt (hunts.Options.Created).
func (r *Room) HuntCreated(c hunts.Creation) {
	names := make([]string, len(c.Artifacts))
	for i, a := range c.Artifacts {
		names[i] = a.Name
	}
	hunt := struct {
		ID          string   `json:"hunt_id"`
		Creator     string   `json:"creator"`
		Description string   `json:"hunt_description"`
		Created     int64    `json:"create_time"` // microseconds, as hunts() has it
		Expires     int64    `json:"expires"`
		Artifacts   []string `json:"artifacts"`
		Limit       int64    `json:"client_limit"`
	}{c.Hunt.String(), c.Creator, c.Description, c.At.UnixMicro(), c.Settings.Expires.UnixMicro(), names, c.Limit}
	r.Tell(c.Index, c.At, Item{Org: c.Org, Queue: HuntCreation, Row: object(map[string]any{"HuntId": c.Hunt.String(), "Hunt": hunt})})
}

// TimelineAdded tells of rows that a notebook keeps (notebooks.Options.Added).
func (r *Room) TimelineAdded(a notebooks.Added) {
	row := map[string]any{
		"NotebookId": a.Notebook.String(), "Timeline": a.Timeline, "Name": a.Child.Name, "Rows": a.Child.Rows, "Principal": a.Child.By,
	}
	r.Tell(a.Index, a.At, Item{Org: a.Org, Queue: TimelineAdd, Row: object(row)})
}

// ArtifactModified tells of a definition (artifacts.Room.Follow).
func (r *Room) ArtifactModified(m artifacts.Modification) {
	op := "set"
	if m.Deleted {
		op = "delete"
	}
	row := map[string]any{"setter": m.Setter, "op": op, "name": m.Name}
	if len(m.Text) <= maxText {
		row["definition"] = m.Text
	}
	r.Tell(m.Index, m.At, Item{Org: m.Org, Queue: ArtifactModification, Row: object(row)})
}

// ClientChanged tells of a client (clients.Room.Follow).
func (r *Room) ClientChanged(e clients.Event) {
	item := Item{Org: e.Org, Client: e.Client}
	switch c := e.Detail.GetChange().(type) {
	case *buspb.ClientChange_Enrol:
		item.Queue, item.Row = Enrollment, object(struct{}{})
	case *buspb.ClientChange_Delete:
		item.Queue, item.Row = ClientDelete, object(map[string]any{"Principal": e.By})
	case *buspb.ClientChange_Label:
		item.Queue = Label
		item.Row = object(map[string]any{"Principal": e.By, "Added": texts(c.Label.GetAdd()), "Removed": texts(c.Label.GetRemove())})
	case *buspb.ClientChange_Metadata:
		// Keys alone: who may read events need not be who may read the server's metadata.
		item.Queue = Metadata
		item.Row = object(map[string]any{
			"Principal": e.By, "Set": texts(slices.Sorted(maps.Keys(c.Metadata.GetSet()))), "Removed": texts(c.Metadata.GetRemove()),
		})
	case *buspb.ClientChange_Info:
		if c.Info.GetInterrogation() == "" {
			return // what an agent tells of itself
		}
		item.Queue, item.Row = Interrogation, object(map[string]any{"InterrogationFlow": c.Info.GetInterrogation()})
	default:
		return
	}
	r.Tell(e.Index, e.At, item)
}

func texts(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
