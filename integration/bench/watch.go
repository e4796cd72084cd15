package main

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"raptorpack/integration/bench/chart"
)

// watchEvery is the time between two samples of a drawing.
const watchEvery = 500 * time.Millisecond

// watch samples a pack, its clients and a hunt, for a drawing of how things went.
type watch struct {
	run   *packRun
	begun time.Time
	stop  context.CancelFunc
	ended chan struct{}

	mu      sync.Mutex
	hunt    hunt // as it was told last
	marks   []chart.Mark
	samples []sampled
}

// sampled is one moment. Maps go by the name of the process.
type sampled struct {
	at     float64 // seconds
	cpu    map[string]float64
	memory map[string]float64 // MiB
	online int
	hunt   hunt
}

// watch begins to sample.
func (r *packRun) watch(ctx context.Context) *watch {
	ctx, stop := context.WithCancel(ctx)
	w := &watch{run: r, begun: time.Now(), stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			w.sample()
		}
	}()
	return w
}

func (w *watch) since() float64 { return time.Since(w.begun).Seconds() }

// saw notes what a hunt's page says now.
func (w *watch) saw(h hunt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hunt = h
}

// mark notes a moment.
func (w *watch) mark(name string) {
	w.run.note("%.1f s: %s", w.since(), name)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.marks = append(w.marks, chart.Mark{X: w.since(), Name: name})
}

// sample reads everything once. A process that has gone just now has a gap.
func (w *watch) sample() {
	s := sampled{cpu: map[string]float64{}, memory: map[string]float64{}}
	for _, node := range w.run.nodes() {
		cpu, err := node.cpu()
		rss, again := node.rss()
		if errors.Join(err, again) == nil {
			s.cpu[node.node], s.memory[node.node] = cpu.Seconds(), float64(rss)/(1<<20)
		}
	}
	stats := w.run.stats()
	s.online, s.cpu["clients"], s.memory["clients"] = stats.Connected, stats.CPU, float64(stats.Memory)/(1<<20)
	w.mu.Lock()
	defer w.mu.Unlock()
	s.at, s.hunt = w.since(), w.hunt
	w.samples = append(w.samples, s)
}

// end stops sampling and draws what was seen into NAME.svg.
func (w *watch) end(name string) error {
	w.stop()
	<-w.ended
	w.sample()
	file, err := os.Create(filepath.Join(w.run.out, name+".svg"))
	if err != nil {
		return err
	}
	_, err = w.page(name).WriteTo(file)
	w.run.note("drawing: %s", file.Name())
	return errors.Join(err, file.Close())
}

// page is the drawing.
func (w *watch) page(name string) *chart.Page {
	p := &chart.Page{Title: name + " at " + w.begun.Format(time.DateTime), Marks: w.marks}
	clients := chart.Panel{Title: "clients", Curves: []chart.Curve{w.curve("online", func(s sampled) float64 { return float64(s.online) })}}
	for _, set := range []string{"pending", "running", "completed", "errored"} {
		clients.Curves = append(clients.Curves, w.curve(set, func(s sampled) float64 { return float64(s.hunt.Clients[set]) }))
	}
	rows := chart.Panel{Title: "rows per second", Curves: []chart.Curve{w.rate("rows", func(s sampled) float64 { return float64(s.hunt.Rows) })}}
	cpu, memory := chart.Panel{Title: "CPU, % of a core"}, chart.Panel{Title: "memory, MiB"}
	for _, process := range []string{"n0", "n1", "n2", "clients"} {
		cpu.Curves = append(cpu.Curves, w.rate(process, func(s sampled) float64 { return 100 * at(s.cpu, process) }))
		memory.Curves = append(memory.Curves, w.curve(process, func(s sampled) float64 { return at(s.memory, process) }))
	}
	p.Panels = []chart.Panel{clients, rows, cpu, memory}
	return p
}

// at is a value, or not a number where there is none.
func at(values map[string]float64, name string) float64 {
	if v, ok := values[name]; ok {
		return v
	}
	return math.NaN()
}

func (w *watch) curve(name string, value func(sampled) float64) chart.Curve {
	c := chart.Curve{Name: name}
	for _, s := range w.samples {
		c.Points = append(c.Points, chart.Point{X: s.at, Y: value(s)})
	}
	return c
}

// rate is the growth of a sum per second, over the last second: clients tell theirs no
// more often. A sum that became smaller is that of another process or hunt.
func (w *watch) rate(name string, sum func(sampled) float64) chart.Curve {
	c := chart.Curve{Name: name}
	back := int(time.Second / watchEvery)
	for i := back; i < len(w.samples); i++ {
		now, before := w.samples[i], w.samples[i-back]
		grown := sum(now) - sum(before)
		if grown < 0 {
			grown = math.NaN()
		}
		c.Points = append(c.Points, chart.Point{X: now.at, Y: grown / max(0.001, now.at-before.at)})
	}
	return c
}
