package flows

import (
	"fmt"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// SpeakOf reports whether one of some facts is about a collection of a client. What a
// client answered to a question is none.
func SpeakOf(facts []*buspb.Mutation, org ids.Org, client ids.Client) (bool, error) {
	spoken, err := spokenIn(facts)
	if err != nil {
		return false, err
	}
	for key := range spoken {
		if key.Org == org && key.Client == client {
			return true, nil
		}
	}
	return false, nil
}

// spokenIn lists the flows that facts prove to be in somebody's hands.
func spokenIn(facts []*buspb.Mutation) (map[Key]bool, error) {
	spoken := map[Key]bool{}
	for _, m := range facts {
		if m.GetKind() != Kind {
			continue
		}
		org, body, err := decode(&buspb.Entry{Mutation: m})
		if err != nil {
			return nil, fmt.Errorf("look for facts that are on their way: %w", err)
		}
		for _, c := range body.Changes {
			if key, err := parseKey(org, spokenOf(c)); err == nil {
				spoken[key] = true
			}
		}
	}
	return spoken, nil
}
