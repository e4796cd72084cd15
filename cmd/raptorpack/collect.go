package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"raptorpack/artifacts"
)

// collectFlags are the wishes for a collection.
type collectFlags struct {
	params    []string
	timeout   string
	maxRows   uint64
	maxUpload uint64
	cpu       float64
	iops      float64
	urgent    bool
}

func newCollect(g *globals) *cobra.Command {
	f := &follower{g: g}
	o := &collectFlags{}
	c := &cobra.Command{
		Use: "collect CLIENT ARTIFACT...", Short: "Run artifacts on a client", Args: atLeast(2, "CLIENT and one or more ARTIFACTs"),
		Long: `Run artifacts on a client. An ARTIFACT may be one source of one, as Generic.Client.Info/Users.

Without --wait the id of the collection is printed at once. With it, progress is
shown on a terminal, the rows are printed at the end, and Ctrl-C cancels the
collection. The exit code then tells how it went: 0 completed, 1 errored or
cancelled, 6 completed but rows are missing.`,
		Example: "  raptorpack collect C.0123456789abcdef Linux.Search.FileFinder --param 'SearchFilesGlob=/etc/*.conf' --wait\n" +
			"  raptorpack collect C.0123456789abcdef Linux.Sys.Users Linux.Sys.Pslist --param Linux.Sys.Pslist.ProcessRegex=sshd",
		RunE: func(c *cobra.Command, args []string) error {
			body, err := o.request(args[1:])
			if err != nil {
				return err
			}
			return f.start(c, args[0], "/clients"+escaped(args[0])+"/flows", body)
		},
	}
	o.declare(c)
	c.Flags().BoolVar(&f.wait, "wait", false, "wait for the end and print the rows; Ctrl-C cancels the collection")
	return c
}

// declare adds what one may wish of a collection to a command.
func (o *collectFlags) declare(c *cobra.Command) {
	flags := c.Flags()
	flags.StringArrayVar(&o.params, "param", nil, "NAME=VALUE for all artifacts, or Artifact.Name.NAME=VALUE for one; may be repeated")
	flags.StringVar(&o.timeout, "timeout", "", "how long each query may run on the client, as 10m or 600 (seconds)")
	flags.Uint64Var(&o.maxRows, "max-rows", 0, "rows at most; 0: as the artifacts say")
	flags.Uint64Var(&o.maxUpload, "max-upload-bytes", 0, "bytes of uploads at most; 0: as the artifacts say")
	flags.Float64Var(&o.cpu, "cpu-limit", 0, "percent of a CPU at most; 0: as the artifacts say")
	flags.Float64Var(&o.iops, "iops-limit", 0, "file operations per second at most; 0: as the artifacts say")
	flags.BoolVar(&o.urgent, "urgent", false, "beside the client's limit on running collections")
}

// collectSpec is one artifact as the JSON door wants it.
type collectSpec struct {
	Name       string            `json:"name"`
	Parameters map[string]string `json:"parameters,omitempty"`
}

// request is the body of the wish.
func (o *collectFlags) request(names []string) (map[string]any, error) {
	specs, err := specsOf(names, o.params)
	if err != nil {
		return nil, err
	}
	seconds, err := parseSeconds(o.timeout)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"artifacts": specs, "urgent": o.urgent,
		"limits": map[string]any{
			"timeout_seconds": seconds, "cpu_percent": o.cpu, "iops": o.iops, "max_rows": o.maxRows, "max_upload_bytes": o.maxUpload,
		},
	}, nil
}

// specsOf gives each artifact its parameters: those with its name in front, and
// those without any.
func specsOf(names, params []string) ([]collectSpec, error) {
	specs := make([]collectSpec, len(names))
	for i, name := range names {
		specs[i] = collectSpec{name, map[string]string{}}
	}
	for _, param := range params {
		key, value, ok := strings.Cut(param, "=")
		if !ok || key == "" {
			return nil, usage("--param %q: expected NAME=VALUE", param)
		}
		addressed := false
		for _, spec := range specs {
			artifact, _, _ := strings.Cut(spec.Name, "/")
			if name, ok := strings.CutPrefix(key, artifact+"."); ok {
				spec.Parameters[name] = value
				addressed = true
			}
		}
		if addressed {
			continue
		}
		if strings.Contains(key, ".") {
			return nil, usage("--param %q: none of the artifacts asked for has that name", param)
		}
		for _, spec := range specs {
			spec.Parameters[key] = value
		}
	}
	return specs, nil
}

// wishOf turns specs into what the compiler takes.
func wishOf(specs []collectSpec) []artifacts.Spec {
	var out []artifacts.Spec
	for _, spec := range specs {
		one := artifacts.Spec{Name: spec.Name}
		for _, name := range sortedKeys(spec.Parameters) {
			one.Parameters = append(one.Parameters, artifacts.Value{Name: name, Value: spec.Parameters[name]})
		}
		out = append(out, one)
	}
	return out
}

// parseSeconds reads 600 or 10m; empty is 0.
func parseSeconds(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return n, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, usage("%q: expected a time as 10m, or seconds", text)
	}
	return uint64((d + time.Second - 1) / time.Second), nil
}
