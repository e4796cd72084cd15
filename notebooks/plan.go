package notebooks

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
)

// Wish is a child that is to be added once its rows are durable.
type Wish struct {
	Key
	Timeline          string // the super timeline
	Name              string
	Column            string // that rows are sorted by
	MessageColumn     string
	DescriptionColumn string
}

// Check returns an error that wraps ErrInvalid or ErrFull if rows of this wish could not
// be added as things are now: to be asked before they are written.
func (r *Room) Check(w Wish) error {
	probe := &applier{Room: r}
	child, err := probe.childOf(w.add(Stored{}))
	if err != nil {
		return err
	}
	all := r.Timelines(w.Key)
	at, there := find(all, w.Timeline)
	if !there && len(all) >= MaxTimelines {
		return fmt.Errorf("notebook %s has %d timelines: %w", w.Notebook, len(all), ErrFull)
	}
	if !there {
		return nil
	}
	if _, known := all[at].find(child.Name); !known && len(all[at].Children) >= MaxChildren {
		return fmt.Errorf("timeline %.100q has %d children: %w", w.Timeline, len(all[at].Children), ErrFull)
	}
	return nil
}

func (w *Wish) add(s Stored) *buspb.TimelineAdd {
	return &buspb.TimelineAdd{
		Timeline: w.Timeline, Name: w.Name, Folder: s.Folder, Key: w.Column, MessageColumn: w.MessageColumn,
		DescriptionColumn: w.DescriptionColumn, Rows: s.Rows, First: micros.Of(s.First), Last: micros.Of(s.Last),
	}
}

// PlanAdd makes rows that are durable a child, in the place of one of the same name. The
// notebook and the super timeline come to be with their first child.
func (r *Room) PlanAdd(w Wish, s Stored) (*buspb.Mutation, error) {
	if err := r.Check(w); err != nil {
		return nil, err
	}
	return mutation(w.Org, &buspb.NotebookChange{Notebook: w.Notebook.String(), Change: &buspb.NotebookChange_Add{Add: w.add(s)}})
}

// PlanRemove takes away a child of a super timeline, or with an empty name all of it.
func (r *Room) PlanRemove(key Key, timeline, name string) (*buspb.Mutation, error) {
	t, err := r.Timeline(key, timeline)
	if err != nil {
		return nil, err
	}
	if _, there := t.find(name); name != "" && !there {
		return nil, fmt.Errorf("timeline %.100q of notebook %s has no child %.100q: %w", timeline, key.Notebook, name, ErrNotFound)
	}
	return mutation(key.Org, &buspb.NotebookChange{Notebook: key.Notebook.String(), Change: &buspb.NotebookChange_Remove{
		Remove: &buspb.TimelineDelete{Timeline: timeline, Name: name},
	}})
}

// PlanDelete takes away all of a notebook. One that is not known may have files that
// were never named; they go, too.
func (r *Room) PlanDelete(key Key) (*buspb.Mutation, error) {
	return mutation(key.Org, &buspb.NotebookChange{Notebook: key.Notebook.String(), Change: &buspb.NotebookChange_Delete{Delete: &buspb.NotebookDelete{}}})
}

// maxSwept keeps a mutation that names folders small.
const maxSwept = 500

// PlanSwept tells that files of one org are removed.
func PlanSwept(org ids.Org, gone []Unused) (*buspb.Mutation, error) {
	swept := &buspb.NotebookSwept{}
	for _, u := range gone {
		swept.Folders = append(swept.Folders, &buspb.NotebookFolder{
			Notebook: u.Notebook.String(), Timeline: u.Timeline, Folder: u.Folder, Index: u.Index,
		})
	}
	return mutation(org, &buspb.NotebookChange{Change: &buspb.NotebookChange_Swept{Swept: swept}})
}

func mutation(org ids.Org, change *buspb.NotebookChange) (*buspb.Mutation, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(change)
	if err != nil {
		return nil, fmt.Errorf("encode change of a notebook: %w: %w", ErrInvalid, err)
	}
	return &buspb.Mutation{Kind: Kind, Org: org.String(), Body: body}, nil
}
