package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"raptorpack/artifacts"
	"raptorpack/cmd/agent"
	"raptorpack/cmd/node"
	"raptorpack/vql"
)

func newVQL(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "vql", Short: "Lay out, check and look up the query language"}
	c.AddCommand(newVQLFormat(), newVQLCheck(g), newVQLReference(g))
	return c
}

func newVQLFormat() *cobra.Command {
	var oneLine bool
	c := &cobra.Command{
		Use: "format QUERY|FILE|-", Short: "Lay out a query in the normal form", Args: exactly(1, "one QUERY or FILE, or - for standard input"),
		Long: `Print a query in the normal form: keywords in capitals, one indentation, comments
kept. With --one-line each statement is one line, as the names of columns and requests
to clients have it, without comments.`,
		Example: "  raptorpack vql format 'select * from info() where OS=\"linux\"'\n" +
			"  raptorpack vql format --one-line hunt.vql",
		RunE: func(c *cobra.Command, args []string) error {
			text, err := queryText(c, args[0])
			if err != nil {
				return err
			}
			out, err := laidOut(text, oneLine)
			if err != nil {
				return usage("%w", err)
			}
			_, err = io.WriteString(c.OutOrStdout(), out)
			return err
		},
	}
	c.Flags().BoolVar(&oneLine, "one-line", false, "each statement on one line, without comments")
	return c
}

func laidOut(text string, oneLine bool) (string, error) {
	if !oneLine {
		return vql.Reformat(text)
	}
	program, err := vql.Parse(text)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, s := range program.Statements() {
		out.WriteString(s.Normal + "\n")
	}
	return out.String(), nil
}

func newVQLCheck(g *globals) *cobra.Command {
	var folder string
	var onServer bool
	c := &cobra.Command{
		Use: "check FILE|-...", Short: "Check query files; the exit code is 1 when any is wrong", Args: atLeast(1, "one or more FILEs"),
		Long: `Check that queries parse, and that what they call exists and has the arguments that
they give. Each finding is a line file:line: message; --format gives them as rows.
Files of artifacts are a matter of artifacts verify.`,
		Example: "  raptorpack vql check *.vql",
		RunE: func(c *cobra.Command, args []string) error {
			repository, err := definitions(c, g, folder)
			if err != nil {
				return err
			}
			v := &verifier{repository: repository}
			if v.endpoint, v.server, err = primitives(); err != nil {
				return err
			}
			known := v.endpoint
			if onServer {
				known = v.server
			}
			for _, name := range args {
				if err := v.program(c, name, known); err != nil {
					return &exitError{exitUsage, err}
				}
			}
			v.count()
			if err := v.print(c, g); err != nil {
				return err
			}
			if v.wrong > 0 {
				return &exitError{exitFailed, fmt.Errorf("%d errors in queries", v.wrong)}
			}
			return nil
		},
	}
	g.formatFlag(c)
	c.Flags().StringVar(&folder, "definitions", "", "a folder of further artifacts that the queries may call")
	c.Flags().BoolVar(&onServer, "on-server", false, "queries that run on a server, which has more to call")
	return c
}

// program checks one file of plain VQL.
func (v *verifier) program(c *cobra.Command, name string, known artifacts.Primitives) error {
	if name != "-" {
		if info, err := os.Stat(name); err != nil {
			return err
		} else if info.IsDir() {
			return fmt.Errorf("%s is a folder", name)
		}
	}
	text, err := queryText(c, name)
	if err != nil {
		return err
	}
	v.files++
	v.problems = append(v.problems, v.repository.CheckProgram(name, text, known)...)
	return nil
}

var referenceColumns = []column{
	{"NAME", "name"},
	{"KIND", "kind"},
	{"RUNS ON", "runs_on"},
	{"PERMISSION", "permission"},
	{"DESCRIPTION", "description"},
}

func newVQLReference(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "reference [NAME]", Short: "List the functions and plugins of queries, or describe one", Args: atMost(1, "a NAME or none"),
		Long: `List the functions and plugins that queries may call, on endpoints and on servers, as
they are declared in this program; docs/vql.md and completion come from the same. With
a NAME, print what takes which arguments; the exit code is 3 if there is none.`,
		Example: "  raptorpack vql reference --format table\n  raptorpack vql reference glob",
		RunE: func(c *cobra.Command, args []string) error {
			all, err := wholeReference()
			if err != nil {
				return err
			}
			if len(args) == 1 && g.format == "" {
				return describe(c.OutOrStdout(), all, args[0])
			}
			p, err := g.printer(c, referenceColumns...)
			if err != nil {
				return err
			}
			found := 0
			for _, e := range all {
				if len(args) == 1 && !strings.EqualFold(e.Name, args[0]) {
					continue
				}
				found++
				if err := p.value(e); err != nil {
					return err
				}
			}
			return cmp.Or(p.close(), noneCalled(found, args))
		},
	}
	g.formatFlag(c)
	return c
}

func noneCalled(found int, args []string) error {
	if found == 0 && len(args) == 1 {
		return &exitError{exitNotFound, fmt.Errorf("no function or plugin is called %.60q", args[0])}
	}
	return nil
}

// reference is a primitive and where it runs.
type reference struct {
	vql.Entry
	RunsOn string `json:"runs_on"` // endpoint, server, or both with a comma
}

// wholeReference lists what is declared for endpoints and servers.
func wholeReference() ([]reference, error) {
	endpoint, err := agent.Engine()
	servers, serverErr := node.Engine()
	if err := errors.Join(err, serverErr); err != nil {
		return nil, err
	}
	places := map[string]int{}
	var out []reference
	for _, e := range endpoint.Reference() {
		places[e.Kind+" "+e.Name] = len(out)
		out = append(out, reference{e, "endpoint"})
	}
	for _, e := range servers.Reference() {
		if at, both := places[e.Kind+" "+e.Name]; both {
			out[at].RunsOn = "endpoint, server"
			out[at].Permission = e.Permission // a server asks for one where an endpoint does not
			continue
		}
		out = append(out, reference{e, "server"})
	}
	slices.SortFunc(out, func(a, b reference) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Kind, b.Kind))
	})
	return out, nil
}

// describe prints all that is called a name as text.
func describe(w io.Writer, all []reference, name string) error {
	var out strings.Builder
	found := 0
	for _, e := range all {
		if !strings.EqualFold(e.Name, name) {
			continue
		}
		if found++; found > 1 {
			out.WriteString("\n")
		}
		e.describe(&out)
	}
	if _, err := io.WriteString(w, out.String()); err != nil {
		return err
	}
	return noneCalled(found, []string{name})
}

func (e *reference) describe(out *strings.Builder) {
	fmt.Fprintf(out, "%s (%s, on %s)\n  %s\n", e.Name, e.Kind, e.RunsOn, e.Description)
	if e.Permission != "" {
		fmt.Fprintf(out, "  On a server it needs %s.\n", e.Permission)
	}
	if len(e.Platforms) > 0 {
		fmt.Fprintf(out, "  It works on %s.\n", strings.Join(e.Platforms, ", "))
	}
	if len(e.Columns) > 0 {
		fmt.Fprintf(out, "  Columns: %s\n", strings.Join(e.Columns, ", "))
	}
	for _, a := range e.Args {
		needed := ""
		if a.Required {
			needed = ", required"
		}
		fmt.Fprintf(out, "    %s (%s%s)  %s\n", a.Name, a.Type, needed, a.Doc)
	}
	if e.FreeForm {
		out.WriteString("    and any further argument\n")
	}
}
