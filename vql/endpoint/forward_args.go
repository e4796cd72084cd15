package endpoint

import (
	"time"

	"raptorpack/vql"
)

// withoutColumns is the row without some columns; the row itself stays as it is.
func withoutColumns(row *vql.Dict, names ...string) *vql.Dict {
	out := row
	for _, name := range names {
		if _, ok := out.Get(name); !ok {
			continue
		}
		if out == row {
			out = copyDict(row)
		}
		out.Delete(name)
	}
	return out
}

func copyDict(d *vql.Dict) *vql.Dict {
	out := vql.NewDict()
	for _, key := range d.Keys() {
		v, _ := d.Get(key)
		out.Set(key, v)
	}
	return out
}

// orDefault is the value of an argument that may be left out.
func orDefault(v, fallback int64) int64 {
	if v <= 0 {
		return fallback
	}
	return v
}

func secondsOf(n int64) time.Duration { return time.Duration(min(max(n, 0), 1<<31)) * time.Second }
