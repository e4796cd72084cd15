package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

func newPack(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "pack", Aliases: []string{"cluster"}, Short: "See how the nodes of a pack stand, and drain one"}
	c.AddCommand(newPackStatus(g), newPackDrain(g))
	return c
}

func newPackStatus(g *globals) *cobra.Command {
	watch := false
	c := &cobra.Command{
		Use: "status", Short: "How every node stands that the node asked hears", Args: cobra.NoArgs,
		Long: `How every node stands that the node asked hears; that one is marked by an asterisk.
LAG is how many entries of the ledger a node is behind the foremost one, AGE how
much older than the ledger its state may be, OUTBOX how many durable facts of it
no master has taken yet. The rows of json, jsonl and csv have more fields.`,
		Example: "  raptorpack pack status --config server.yaml\n" +
			"  raptorpack pack status --watch --server https://pack.example:8889 --api-client me.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			return g.withRemote(c, func(ctx context.Context, r *remote) error {
				if watch {
					return newPackWatch(g, c).run(ctx, r)
				}
				var nodes packNodes
				if err := r.get(ctx, "/pack", nil, &nodes); err != nil {
					return err
				}
				p, err := g.packPrinter(c)
				if err != nil {
					return err
				}
				return showPack(p, nodes)
			})
		},
	}
	c.Flags().BoolVar(&watch, "watch", false, "on a terminal draw the table anew each second, else print one for each change but those of AGE, CPU and MEM; Ctrl-C ends it")
	return c
}

func newPackDrain(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "drain NODE", Short: "Have a node hand its clients over and stop", Args: exactly(1, "NODE"),
		Long: `Have a node hand its clients over and stop, as SIGTERM does. The command returns
when the node has been told; a service manager may start it anew.`,
		Example: "  raptorpack pack drain eu-2 --config server.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			return g.withRemote(c, func(ctx context.Context, r *remote) error { return r.drain(ctx, args[0]) })
		},
	}
}

// drain tells a node to drain, and only the run of it that is there now: what is
// sent again after a broken connection must not end the next one.
func (r *remote) drain(ctx context.Context, node string) error {
	var nodes packNodes
	if err := r.get(ctx, "/pack", nil, &nodes); err != nil {
		return err
	}
	path := "/pack/nodes" + escaped(node) + "/drain"
	for _, n := range nodes {
		if n.Node == node {
			path += "?" + url.Values{"incarnation": {n.Incarnation}}.Encode()
			break
		}
	}
	if err := r.change(ctx, http.MethodPost, path, nil, nil); err != nil {
		return err
	}
	r.note("node %s hands its clients over and stops", node)
	return nil
}

// packNode is what a command reads of a node's status.
type packNode struct {
	Node        string  `json:"node"`
	Incarnation string  `json:"incarnation"`
	Role        string  `json:"role"`
	Ready       string  `json:"ready"`
	Epoch       uint64  `json:"epoch"`
	Index       uint64  `json:"index"`
	Lag         uint64  `json:"lag"`
	AgeMs       int64   `json:"ageMs"`
	Connected   int64   `json:"connected"`
	Clients     int64   `json:"clients"`
	Outbox      int64   `json:"outbox"`
	CPU         float64 `json:"cpu"`
	MemoryBytes int64   `json:"memoryBytes"`
	Draining    bool    `json:"draining"`
	Self        bool    `json:"self"`

	raw json.RawMessage // all that the server said
}

// packNodes is the server's answer.
type packNodes []*packNode

// UnmarshalJSON implements json.Unmarshaler.
func (p *packNodes) UnmarshalJSON(data []byte) error {
	var answer page
	if err := json.Unmarshal(data, &answer); err != nil {
		return err
	}
	*p = nil
	for _, item := range answer.Items {
		n := &packNode{raw: item}
		if err := json.Unmarshal(item, n); err != nil {
			return fmt.Errorf("node: %w", err)
		}
		*p = append(*p, n)
	}
	return nil
}

// packPrinter has columns of its own only for tables: rows that scripts read are
// as the server sends them.
func (g *globals) packPrinter(c *cobra.Command) (*printer, error) {
	p, err := g.printer(c)
	if err == nil && p.format == "table" {
		p.fixed = true
		for _, title := range []string{"NODE", "ROLE", "EPOCH", "INDEX", "LAG", "AGE", "CLIENTS", "CONNECTED", "OUTBOX", "CPU", "MEM", "STATE"} {
			p.columns = append(p.columns, column{title, title})
		}
	}
	return p, err
}

// showPack prints all nodes and ends the output.
func showPack(p *printer, nodes packNodes) error {
	led := false
	for _, n := range nodes {
		led = led || n.Role == "master"
		var err error
		if p.format == "table" {
			err = p.value(n.cells())
		} else {
			err = p.row(n.raw)
		}
		if err != nil {
			return err
		}
	}
	if err := p.close(); err != nil {
		return err
	}
	if !led {
		p.note("no node that is heard leads at the moment")
	}
	return nil
}

// cells is a node as a table shows it.
func (n *packNode) cells() map[string]any {
	name, age, state := n.Node, "-", n.Ready
	if n.Self {
		name += " *"
	}
	if n.AgeMs >= 0 {
		age = (time.Duration(n.AgeMs) * time.Millisecond).Round(100 * time.Millisecond).String()
	}
	switch {
	case state == "" && n.Draining:
		state = "draining"
	case state == "":
		state = "ready"
	}
	return map[string]any{
		"NODE": name, "ROLE": n.Role, "EPOCH": n.Epoch, "INDEX": n.Index, "LAG": n.Lag, "AGE": age, "CLIENTS": n.Clients,
		"CONNECTED": n.Connected, "OUTBOX": n.Outbox, "CPU": fmt.Sprintf("%.0f%%", 100*n.CPU), "MEM": byteCount(n.MemoryBytes), "STATE": state,
	}
}
