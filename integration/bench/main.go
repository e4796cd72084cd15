package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"raptorpack/cmd/node"
	"raptorpack/config"
	"raptorpack/ids"
	"raptorpack/pool"
)

// errSettings means that what was asked for cannot be measured.
var errSettings = errors.New("invalid settings")

// settings are the command line.
type settings struct {
	clients   int
	idle      time.Duration
	ramp      float64
	flows     int
	rows      int
	repeats   int
	uploadMB  int64
	fleet     int
	drainable int
	known     int
	out       string
	only      string
	tls       bool // clients of a pack connect with TLS
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) >= 2 && args[0] == "serve":
		return serve(ctx, args[1:])
	case len(args) == 2 && args[0] == "swarm":
		return runSwarm(ctx, args[1])
	case len(args) >= 1 && args[0] == "pack":
		return runPack(ctx, args[1:])
	}
	s := settings{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&s.clients, "clients", 10_000, "idle agents; bounded by the descriptors that a process may have")
	flags.DurationVar(&s.idle, "idle", time.Minute, "how long agents are idle; the long form is 10m")
	flags.Float64Var(&s.ramp, "ramp", 150, "agents that start in a second, in all processes together")
	flags.IntVar(&s.flows, "flows", 5000, "small collections")
	flags.IntVar(&s.rows, "rows", 100_000, "rows of the collection of rows")
	flags.IntVar(&s.repeats, "repeats", 5, "how often the collection of rows runs")
	flags.Int64Var(&s.uploadMB, "upload", 1024, "MiB of the upload")
	flags.StringVar(&s.out, "out", "", "folder for raw output; empty: a new one in the folder for temporary files")
	flags.IntVar(&s.fleet, "fleet", 20_000, "idle agents of a pack, in several processes")
	flags.IntVar(&s.drainable, "drained", 5000, "those of them at the node that is drained; the others share the other nodes")
	flags.IntVar(&s.known, "known", 1_000_000, "clients of the node that has very many")
	flags.StringVar(&s.only, "only", "plain,tls,resident,resident-tls,flows,rows,upload,labels,cut,wake,newcomers,million,fleet", "what to measure")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b, err := newBench(s)
	if err != nil {
		return err
	}
	if err := b.bound(); err != nil {
		return err
	}
	return b.measure(ctx)
}

// ownDescriptors is what the server may need beside sockets in a storm of
// enrolments: 512 open segments and those of the commits under way.
const ownDescriptors = 3000

// passing are connections beside the sockets: those that ask for server.pem, and
// sockets whose other end has gone already.
const passing = 500

// serve is a server's process: its file, and in a pack its name, how far its ports
// are shifted and whether it may lead.
func serve(ctx context.Context, args []string) error {
	o := node.Options{Master: true, Version: "bench"}
	offset := 0
	if len(args) == 4 {
		var errs [3]error
		o.Name, errs[0] = ids.ParseNode(args[1])
		offset, errs[1] = strconv.Atoi(args[2])
		o.Master, errs[2] = strconv.ParseBool(args[3])
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
	}
	loaded, err := config.Load(args[0], config.Options{PortOffset: offset})
	if err != nil {
		return err
	}
	if _, err := pool.RaiseDescriptorLimit(100_000); err != nil {
		return err
	}
	o.Config, o.Logger = loaded, slog.New(slog.NewTextHandler(os.Stderr, nil))
	n, err := node.New(ctx, o)
	if err != nil {
		return err
	}
	go obey(os.Stdin, os.Stdout) // until the process ends
	return n.Run(ctx)
}

// bench is one run.
type bench struct {
	settings
	identities *pool.Identities
	raw        io.Writer
	table      []figure
}

func newBench(s settings) (*bench, error) {
	b := &bench{settings: s}
	var err error
	if b.out == "" {
		b.out, err = os.MkdirTemp("", "raptorpack-bench-")
	} else {
		err = os.MkdirAll(b.out, 0o755)
	}
	if err != nil {
		return nil, err
	}
	raw, err := os.Create(filepath.Join(b.out, "raw.txt"))
	if err != nil {
		return nil, err
	}
	b.raw = raw
	return b, nil
}

// bound keeps the clients of one node and one process within what it may open.
func (b *bench) bound() error {
	limit, err := pool.RaiseDescriptorLimit(uint64(2*b.clients + 1000))
	if err != nil {
		return err
	}
	// Two sockets each, on both sides; some descriptors are the server's own, for
	// its store.
	if most := int(limit-ownDescriptors-passing) / 2; b.clients > most {
		b.note("a process may open %d files: %d clients instead of %d", limit, most, b.clients)
		b.clients = most
	}
	return nil
}

func (b *bench) measure(ctx context.Context) error {
	if err := b.begin(ctx, b.clients); err != nil {
		return err
	}
	return b.each(ctx, []part{
		{"plain", func(ctx context.Context) error { return b.idleClients(ctx, false) }},
		{"tls", func(ctx context.Context) error { return b.idleClients(ctx, true) }},
		{"resident", func(ctx context.Context) error { return b.resident(ctx, "plain") }},
		{"resident-tls", func(ctx context.Context) error { return b.resident(ctx, "TLS") }},
		{"flows", b.smallFlows},
		{"rows", b.manyRows},
		{"upload", b.largeUpload},
		{"labels", b.labels},
		{"cut", b.busCut},
		{"wake", b.wake},
		{"newcomers", b.newcomers},
		{"million", b.million},
		{"fleet", b.fleet},
	})
}

// begin tells what is measured where, and makes keys for so many clients.
func (b *bench) begin(ctx context.Context, clients int) error {
	b.note("commit %s, %s, %d CPUs, load average %s, raw output in %s", commit(ctx), runtime.Version(), runtime.NumCPU(), loadAverage(), b.out)
	begun := time.Now()
	var err error
	if b.identities, err = pool.LoadIdentities(ctx, filepath.Join(b.out, "identities"), clients); err != nil {
		return err
	}
	b.note("%d identities in %.1f s", b.identities.Count(), time.Since(begun).Seconds())
	return nil
}

// part is one measurement.
type part struct {
	name string
	do   func(context.Context) error
}

// each does the parts that are wanted, in their order, and prints the table.
func (b *bench) each(ctx context.Context, parts []part) error {
	wanted := strings.Split(b.only, ",")
	for _, name := range wanted {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("%w: no part %q", errSettings, name)
		}
	}
	for _, p := range parts {
		if !slices.Contains(wanted, p.name) {
			continue
		}
		b.note("--- %s, load average %s", p.name, loadAverage())
		if err := p.do(ctx); err != nil {
			b.print(os.Stdout) // what was measured before is true all the same
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	b.print(os.Stdout)
	b.print(b.raw)
	return nil
}

// note tells the terminal and the raw output.
func (b *bench) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	fmt.Fprintln(os.Stderr, line)
	fmt.Fprintf(b.raw, "%s %s\n", time.Now().Format("15:04:05"), line)
}

func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}
