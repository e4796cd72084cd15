package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"raptorpack/artifacts"
	"raptorpack/cmd/agent"
	"raptorpack/cmd/node"
	"raptorpack/vql"
)

const maxArtifactFile = 4 << 20

var artifactColumns = []column{{"NAME", "name"}, {"TYPE", "type"}, {"BUILT IN", "built_in"}, {"SOURCES", "sources"}, {"DESCRIPTION", "description"}}

func newArtifacts(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "artifacts", Short: "List, show, check and run artifacts", Aliases: []string{"artifact"},
		Long: "List, show, check and run artifacts. list and show look at those of this program;\n" +
			"with --server, --api-client or --config on the command line, at the server's.",
	}
	g.remoteFlags(c)
	g.formatFlag(c)
	c.AddCommand(newArtifactsList(g), newArtifactsShow(g), newArtifactsVerify(g), newArtifactsCollect(g), newArtifactsSet(g),
		&cobra.Command{
			Use: "delete NAME", Short: "Delete a custom artifact of a server", Args: exactly(1, "NAME"),
			Example: "  raptorpack artifacts delete Custom.My.Artifact --config server.yaml",
			RunE: func(c *cobra.Command, args []string) error {
				return g.changed(c, http.MethodDelete, "/artifacts"+escaped(args[0]), nil, "artifact %s is deleted", args[0])
			},
		})
	return c
}

// shownArtifact is a definition in the form of the JSON door.
type shownArtifact struct {
	Name        string           `json:"name"`
	Type        artifacts.Type   `json:"type"`
	Description string           `json:"description"`
	BuiltIn     bool             `json:"built_in"`
	Sources     []string         `json:"sources"`
	Parameters  []shownParameter `json:"parameters"`
}

type shownParameter struct {
	Name        string   `json:"name"`
	Type        string   `json:"type,omitempty"`
	Default     string   `json:"default,omitempty"`
	Description string   `json:"description,omitempty"`
	Choices     []string `json:"choices,omitempty"`
}

func showArtifact(d *artifacts.Definition) shownArtifact {
	out := shownArtifact{Name: d.Name, Type: d.Type, Description: d.Description, BuiltIn: d.BuiltIn, Sources: []string{}, Parameters: []shownParameter{}}
	for i := range d.Sources {
		out.Sources = append(out.Sources, d.ResultName(&d.Sources[i]))
	}
	for _, p := range d.Parameters {
		out.Parameters = append(out.Parameters, shownParameter{p.Name, p.Type, p.Default, p.Description, p.Choices})
	}
	return out
}

func newArtifactsList(g *globals) *cobra.Command {
	var folder string
	c := &cobra.Command{
		Use: "list [REGEX]", Short: "List artifacts whose names match", Args: atMost(1, "a REGEX or none"),
		Example: "  raptorpack artifacts list '^Linux\\.Sys'",
		RunE: func(c *cobra.Command, args []string) error {
			pattern, err := regexp.Compile("(?i)" + strings.Join(args, ""))
			if err != nil {
				return usage("REGEX: %w", err)
			}
			if asksServer(c) {
				return g.listRemoteArtifacts(c, pattern)
			}
			repository, err := definitions(c, g, folder)
			if err != nil {
				return err
			}
			p, err := g.printer(c, artifactColumns...)
			if err != nil {
				return err
			}
			for _, d := range repository.List() {
				if !pattern.MatchString(d.Name) {
					continue
				}
				if err := p.value(showArtifact(d)); err != nil {
					return err
				}
			}
			return p.close()
		},
	}
	c.Flags().StringVar(&folder, "definitions", "", "a folder of further artifacts")
	return c
}

func (g *globals) listRemoteArtifacts(c *cobra.Command, pattern *regexp.Regexp) error {
	return g.withRemote(c, func(ctx context.Context, r *remote) error {
		p, err := g.printer(c, artifactColumns...)
		if err != nil {
			return err
		}
		err = r.each(ctx, "/artifacts", url.Values{}, 0, func(page *page) error {
			for _, item := range page.Items {
				var named struct {
					Name string `json:"name"`
				}
				if err := json.Unmarshal(item, &named); err != nil {
					return fmt.Errorf("list of artifacts: %w", err)
				}
				if !pattern.MatchString(named.Name) {
					continue
				}
				if err := p.row(item); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		return p.close()
	})
}

func newArtifactsShow(g *globals) *cobra.Command {
	var folder string
	c := &cobra.Command{
		Use: "show NAME", Short: "Print the text of an artifact", Args: exactly(1, "NAME"),
		Example: "  raptorpack artifacts show Generic.Client.Info",
		RunE: func(c *cobra.Command, args []string) error {
			if asksServer(c) {
				return g.withRemote(c, func(ctx context.Context, r *remote) error {
					var found struct {
						Text string `json:"text"`
					}
					if err := r.get(ctx, "/artifacts"+escaped(args[0]), nil, &found); err != nil {
						return err
					}
					return printText(c, found.Text)
				})
			}
			repository, err := definitions(c, g, folder)
			if err != nil {
				return err
			}
			d, err := repository.Lookup(args[0])
			if err != nil {
				return &exitError{exitNotFound, err}
			}
			return printText(c, d.Text)
		},
	}
	c.Flags().StringVar(&folder, "definitions", "", "a folder of further artifacts")
	return c
}

func printText(c *cobra.Command, text string) error {
	_, err := fmt.Fprintln(c.OutOrStdout(), strings.TrimRight(text, "\n"))
	return err
}

func newArtifactsSet(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "set FILE|-", Short: "Store a custom artifact on a server", Args: exactly(1, "FILE, or - for standard input"),
		Example: "  raptorpack artifacts set my.yaml --server https://pack.example:8889 --api-client me.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			in := c.InOrStdin()
			if args[0] != "-" {
				file, err := os.Open(args[0])
				if err != nil {
					return &exitError{exitUsage, err}
				}
				defer file.Close()
				in = file
			}
			text, err := io.ReadAll(io.LimitReader(in, maxArtifactFile+1))
			if err != nil {
				return fmt.Errorf("read artifact: %w", err)
			}
			if len(text) > maxArtifactFile {
				return usage("%s is longer than %d bytes", args[0], maxArtifactFile)
			}
			return g.changed(c, http.MethodPut, "/artifacts", map[string]string{"text": string(text)}, "artifact is stored")
		},
	}
}

var problemColumns = []column{{"FILE", "file"}, {"LINE", "line"}, {"KIND", "kind"}, {"RULE", "rule"}, {"MESSAGE", "message"}}

func newArtifactsVerify(g *globals) *cobra.Command {
	var folder string
	c := &cobra.Command{
		Use: "verify FILE|DIR...", Short: "Check artifact files; the exit code is 1 when any is wrong", Args: atLeast(1, "one or more FILEs or DIRs"),
		Long: "Check artifact files against each other, the built-in ones and the primitives of this\n" +
			"program. Each finding is a line file:line: message; --format gives them as rows.",
		Example: "  raptorpack artifacts verify definitions/ my.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			repository, err := definitions(c, g, folder)
			if err != nil {
				return err
			}
			v := &verifier{repository: artifacts.NewRepository(repository)}
			if v.endpoint, v.server, err = primitives(); err != nil {
				return err
			}
			for _, name := range args {
				if err := v.read(name); err != nil {
					return &exitError{exitUsage, err}
				}
			}
			v.check()
			if err := v.print(c, g); err != nil {
				return err
			}
			g.noter(c)("%d files, %d errors, %d warnings", v.files, v.wrong, len(v.problems)-v.wrong)
			if v.wrong > 0 {
				return &exitError{exitFailed, fmt.Errorf("%d errors in artifact files", v.wrong)}
			}
			return nil
		},
	}
	c.Flags().StringVar(&folder, "definitions", "", "a folder of further artifacts that the checked ones may call")
	return c
}

// primitives are what queries may call on an endpoint and on a server.
func primitives() (onEndpoint, onServer artifacts.Primitives, err error) {
	own, err := agent.Engine()
	if err != nil {
		return onEndpoint, onServer, err
	}
	servers, err := node.Engine()
	return primitivesOf(own), primitivesOf(servers), err
}

func primitivesOf(engine *vql.Engine) artifacts.Primitives {
	known := artifacts.Primitives{Functions: map[string]artifacts.Primitive{}, Plugins: map[string]artifacts.Primitive{}}
	if engine == nil {
		return known
	}
	for _, entry := range engine.Reference() {
		one := artifacts.Primitive{AnyArgs: entry.FreeForm, Permission: entry.Permission}
		for _, arg := range entry.Args {
			one.Args = append(one.Args, arg.Name)
			if arg.Required {
				one.Required = append(one.Required, arg.Name)
			}
		}
		if entry.Kind == "plugin" {
			known.Plugins[entry.Name] = one
		} else {
			known.Functions[entry.Name] = one
		}
	}
	return known
}

// verifier reads all files first, since they may call each other.
type verifier struct {
	repository *artifacts.Repository
	endpoint   artifacts.Primitives
	server     artifacts.Primitives
	files      int
	parsed     []parsedFile
	problems   []artifacts.Problem
	wrong      int
}

type parsedFile struct {
	name       string
	definition *artifacts.Definition
}

func (v *verifier) read(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return v.parse(name)
	}
	before := v.files
	err = filepath.WalkDir(name, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if ext := strings.ToLower(filepath.Ext(file)); ext != ".yaml" && ext != ".yml" {
			return nil
		}
		return v.parse(file)
	})
	if err == nil && v.files == before {
		return fmt.Errorf("%s has no .yaml or .yml file", name)
	}
	return err
}

func (v *verifier) parse(name string) error {
	d, err := artifacts.ParseFile(name)
	if err != nil && !errors.Is(err, artifacts.ErrInvalid) {
		return err
	}
	v.files++
	if err != nil {
		v.found(name, err)
		return nil
	}
	// A copy of a built-in artifact takes no place: it is judged as what it is.
	if own, err := v.repository.Lookup(d.Name); err == nil && own.BuiltIn && own.Text == d.Text {
		v.parsed = append(v.parsed, parsedFile{name, d})
		return nil
	}
	if same := slices.IndexFunc(v.parsed, func(p parsedFile) bool { return p.definition.Name == d.Name }); same >= 0 {
		v.found(name, &artifacts.Taken{Line: d.NameLine(), Err: fmt.Errorf("%s is the name of the artifact in %s, too", d.Name, v.parsed[same].name)})
		return nil
	}
	if err := v.repository.Add(d); err != nil {
		v.found(name, err)
	}
	v.parsed = append(v.parsed, parsedFile{name, d})
	return nil
}

// found notes an error as findings.
func (v *verifier) found(name string, err error) {
	var invalid *artifacts.Invalid
	var taken *artifacts.Taken
	switch {
	case errors.As(err, &invalid):
		v.problems = append(v.problems, invalid.Problems...)
	case errors.As(err, &taken):
		v.problems = append(v.problems, artifacts.Problem{File: name, Line: taken.Line, Rule: "name_taken", Message: err.Error()})
	default:
		v.problems = append(v.problems, artifacts.Problem{File: name, Line: 1, Message: err.Error()})
	}
}

func (v *verifier) check() {
	for _, file := range v.parsed {
		known := v.server
		if t := file.definition.Type; t == artifacts.Client || t == artifacts.ClientEvent {
			known = v.endpoint
		}
		v.problems = append(v.problems, v.repository.Check(file.name, file.definition, known)...)
	}
	v.count()
}

func (v *verifier) count() {
	for _, p := range v.problems {
		if !p.Warning {
			v.wrong++
		}
	}
}

func (v *verifier) print(c *cobra.Command, g *globals) error {
	if g.format == "" {
		for _, p := range v.problems {
			if _, err := fmt.Fprintln(c.OutOrStdout(), harmlessLines(p.String())); err != nil {
				return err
			}
		}
		return nil
	}
	out, err := g.printer(c, problemColumns...)
	if err != nil {
		return err
	}
	for _, p := range v.problems {
		kind := "error"
		if p.Warning {
			kind = "warning"
		}
		row := struct {
			File    string `json:"file"`
			Line    int    `json:"line"`
			Kind    string `json:"kind"`
			Rule    string `json:"rule"`
			Message string `json:"message"`
		}{p.File, p.Line, kind, p.Rule, p.Message}
		if err := out.value(row); err != nil {
			return err
		}
	}
	return out.close()
}
