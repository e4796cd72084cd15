package clients

import (
	"maps"
	"slices"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// metadata are keys and values that operators keep with a client, or with the
// server itself. It is replaced whole, never changed.
type metadata map[string]string

// edited is what a change makes of it.
func (m metadata) edited(change *buspb.ClientMetadata) metadata {
	out := maps.Clone(m)
	if out == nil {
		out = metadata{}
	}
	for _, key := range change.GetRemove() {
		delete(out, key)
	}
	// In order of keys, so that every node stops at the same one when it is full.
	for _, key := range slices.Sorted(maps.Keys(change.GetSet())) {
		if _, known := out[key]; known || len(out) < maxMetadata {
			out[key] = change.GetSet()[key]
		}
	}
	return out
}

// ServerMetadata returns the metadata of the server itself, which is kept under the
// pseudo client ids.Server; nil: there is none. Nobody changes it later, and the
// caller must not.
func (r *Room) ServerMetadata(org ids.Org) map[string]string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.server[org]
}

// keepServer takes over the server's metadata; the caller holds the lock. None is no
// entry: a snapshot is to be the same whether there ever was any.
func (r *Room) keepServer(org ids.Org, m metadata) {
	if len(m) == 0 {
		delete(r.server, org)
		return
	}
	r.server[org] = m
}
