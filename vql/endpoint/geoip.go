package endpoint

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
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
		return loadGeoDB(args.DB)
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

// maxGeoDB bounds a database: the largest that are published take 150 MB.
const maxGeoDB = 512 << 20

// loadGeoDB reads a database. It is not mapped, because a file that somebody cuts
// short would end the process.
func loadGeoDB(path string) (*maxminddb.Reader, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxGeoDB+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > maxGeoDB {
		return nil, fmt.Errorf("read %s: the database exceeds %d bytes", path, maxGeoDB)
	}
	db, err := maxminddb.OpenBytes(data)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

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
