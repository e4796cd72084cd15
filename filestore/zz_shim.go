package filestore

import (
	"context"
	"os"
)

func (s *Store) Seals(ctx context.Context, known func(name string) bool) ([]*Seal, error) { return nil, nil }
func (i *Incarnation) Advertise(a string)                                             { _ = os.WriteFile("/tmp/rp-gossip-"+i.name, []byte(a), 0o600) }
