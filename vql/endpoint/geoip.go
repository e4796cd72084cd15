package endpoint

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/oschwald/maxminddb-golang/v2"
	"raptorpack/vql"
)

type geoipArgs struct {
	IP string `vql:"ip,required" doc:"The address to look up."`
	DB string `vql:"db,required" doc:"The path of a MaxMind database."`
}

type geoipKey struct{ db string }

var geoipFunction = vql.NewFunction(vql.Spec{
	Name: "geoip", Permission: "FILESYSTEM_READ", Doc: "Looks an address up in a MaxMind database; NULL when it is not there.",
}, func(_ context.Context, scope *vql.Scope, args *geoipArgs) (vql.Value, error) {
	addr, err := netip.ParseAddr(strings.TrimSpace(args.IP))
	if err != nil {
		return nil, err
	}
	cached, err := scope.Cache().Get(geoipKey{args.DB}, func() (any, error) {
		if facts, err := followFacts(args.DB); err != nil {
			return nil, err
		} else if err := readable(args.DB, facts.mode, false); err != nil {
			return nil, err
		}
		db, err := maxminddb.Open(args.DB)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", args.DB, err)
		}
		scope.OnRootClose(func() { _ = db.Close() }) // unmaps memory: nothing to lose
		return db, nil
	})
	if err != nil {
		return nil, err
	}
	result := cached.(*maxminddb.Reader).Lookup(addr.Unmap())
	if result.Err() != nil || !result.Found() {
		return nil, result.Err()
	}
	var v any
	if err := result.Decode(&v); err != nil {
		return nil, err
	}
	return orderedValue(v), nil
})

// orderedValue turns maps into dicts with sorted keys.
func orderedValue(v any) vql.Value {
	switch t := v.(type) {
	case map[string]any:
		d := vql.NewDict()
		for _, key := range sortedKeys(t) {
			d.Set(key, orderedValue(t[key]))
		}
		return d
	case []any:
		out := make([]vql.Value, len(t))
		for i := range t {
			out[i] = orderedValue(t[i])
		}
		return out
	}
	return v
}
