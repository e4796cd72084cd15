package container

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

// Names in the containers of stock offline collectors.
const (
	stockRecord  = "collection_context.json"
	stockLogs    = "log.json"
	stockUploads = "uploads.json"
	stockResults = "results/"
	stockRows    = ".json"
)

// stockDerived are endings of files that say again what others do.
var stockDerived = []string{".csv", ".index", ".tidx"}

// openStock finds what is where in a container without a manifest.
func (r *Reader) openStock() error {
	r.Stock = true
	results := map[string]bool{}
	for _, name := range r.zip.Names() {
		switch {
		case name == stockRecord, name == ClientName:
		case name == stockLogs, name == "logs.json":
			r.logs = name
		case name == stockUploads:
			r.uploads = name
		case strings.HasPrefix(name, stockResults) && strings.HasSuffix(name, stockRows):
			result, err := url.PathUnescape(strings.TrimSuffix(strings.TrimPrefix(name, stockResults), stockRows))
			if err != nil || results[result] {
				return fmt.Errorf("result %.200q: %w", name, ErrUnsound)
			}
			results[result] = true
			r.Results = append(r.Results, Result{result, name})
		case strings.HasPrefix(name, UploadsDir+"/"):
		case !derived(name):
			r.Problems = append(r.Problems, Problem{name, "nobody knows what it is; it is left out"})
		}
	}
	_, recorded := r.zip.Size(stockRecord)
	if !recorded && len(r.Results) == 0 {
		return fmt.Errorf("neither a manifest nor results: %w", ErrUnsound)
	}
	if _, has := r.zip.Size(ClientName); has {
		var err error
		if r.Info, err = r.object(ClientName); err != nil {
			return err
		}
		var info struct{ Hostname string }
		if err := json.Unmarshal(r.Info, &info); err == nil { // of another shape: the name is not known
			r.Record.Hostname = info.Hostname
		}
	}
	r.Record.State = "completed"
	if !recorded {
		return nil
	}
	return r.stockContext()
}

func derived(name string) bool {
	for _, ending := range stockDerived {
		if strings.HasSuffix(name, ending) {
			return true
		}
	}
	return false
}

// stockNumber is a number that may be written as a text.
type stockNumber int64

// UnmarshalJSON implements json.Unmarshaler.
func (n *stockNumber) UnmarshalJSON(text []byte) error {
	v, err := strconv.ParseFloat(strings.Trim(string(text), `"`), 64)
	if err == nil && v >= 0 && v < 1<<62 {
		*n = stockNumber(v)
	}
	return nil // what it says besides is not worth a refusal
}

func (n stockNumber) time() *time.Time {
	if n <= 0 {
		return nil
	}
	at := time.UnixMicro(int64(n)).UTC()
	return &at
}

func (r *Reader) stockContext() error {
	var c struct {
		Session string      `json:"session_id"`
		Client  string      `json:"client_id"`
		Created stockNumber `json:"create_time"`
		Started stockNumber `json:"start_time"`
		Ended   stockNumber `json:"active_time"`
		State   any         `json:"state"`
		Status  string      `json:"status"`
		Request struct {
			Creator   string   `json:"creator"`
			Artifacts []string `json:"artifacts"`
			Specs     []struct {
				Artifact   string `json:"artifact"`
				Parameters struct {
					Env []struct{ Key, Value string } `json:"env"`
				} `json:"parameters"`
			} `json:"specs"`
		} `json:"request"`
	}
	if err := r.document(stockRecord, &c); err != nil {
		return err
	}
	r.Record.Session, r.Record.Client, r.Record.Creator = c.Session, c.Client, c.Request.Creator
	r.Record.Created, r.Record.Started, r.Record.Ended = c.Created.time(), c.Started.time(), c.Ended.time()
	if text := fmt.Sprint(c.State); text == "3" || strings.EqualFold(text, "ERROR") {
		r.Record.State, r.Record.Error = "errored", c.Status
	}
	for _, name := range c.Request.Artifacts {
		one := Artifact{Name: name}
		for _, spec := range c.Request.Specs {
			if spec.Artifact != name {
				continue
			}
			one.Parameters = map[string]string{}
			for _, env := range spec.Parameters.Env {
				one.Parameters[env.Key] = env.Value
			}
		}
		r.Record.Artifacts = append(r.Record.Artifacts, one)
	}
	return nil
}

// stockUpload reads a line of uploads.json; false if it lists no file but the index of
// one.
func (r *Reader) stockUpload(line []byte, u *Upload) (bool, error) {
	var s struct {
		Path       string      `json:"vfs_path"`
		Type       string      `json:"Type"`
		Components []string    `json:"_Components"`
		Client     []string    `json:"_client_components"`
		Accessor   string      `json:"_accessor"`
		Size       stockNumber `json:"file_size"`
	}
	if err := json.Unmarshal(line, &s); err != nil {
		return false, err
	}
	if s.Type == "idx" {
		return false, nil
	}
	u.Accessor, u.Components = s.Accessor, s.Client
	if len(u.Components) == 0 && len(s.Components) > 2 && s.Components[0] == UploadsDir {
		u.Accessor, u.Components = s.Components[1], s.Components[2:]
	}
	if len(u.Components) == 0 {
		u.Components = strings.FieldsFunc(s.Path, func(c rune) bool { return c == '/' || c == '\\' })
	}
	u.Source = strings.Join(u.Components, "/")
	for _, member := range stockPlaces(s.Path, s.Components, u.Accessor, u.Components) {
		size, has := r.zip.Size(member)
		if !has {
			continue
		}
		_, u.Sparse = r.zip.Size(member + IndexEnding)
		u.Member, u.StoredSize, u.Size = member, size, max(size, int64(s.Size))
		return true, nil
	}
	u.Size = int64(s.Size)
	u.Error = "the file is not in the zip"
	return true, nil
}

// stockPlaces are the names under which a stock container may have an upload.
func stockPlaces(vfs string, components []string, accessor string, client []string) []string {
	escaped := func(parts []string) string {
		out := make([]string, len(parts))
		for i, part := range parts {
			out[i] = url.PathEscape(part)
		}
		return path.Join(out...)
	}
	own := append([]string{UploadsDir, accessor}, client...)
	return []string{strings.TrimPrefix(vfs, "/"), path.Join(components...), escaped(components), path.Join(own...), escaped(own)}
}
