package pool

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"raptorpack/client"
	"raptorpack/wire"
)

// Options say what a pool is.
type Options struct {
	// Clients is how many agents run; at least 1, at most what Identities hold. They
	// are the identities from First on, so that several pools can be one fleet.
	Clients    int
	First      int
	Identities *Identities

	// Base is what all agents share. Identity, WritebackPath, Buffer.Dir, Transport,
	// Engine, Services, Accessors, Info, Acknowledged, Metrics, Logger and the
	// watchdog's limits are the pool's to fill.
	Base client.Options

	// Wire is the way to the server; the pool brings the dialler. Agents that
	// speak WebSocket share one transport.
	Wire wire.TransportOptions

	// Polling makes agents POST, over connections that they share with nobody, as
	// URLs that begin with http say. Otherwise such URLs are spoken to by
	// WebSocket and nothing else, so that what is measured is what was asked for.
	Polling bool

	// Ramp is how many agents start in a second [200].
	Ramp float64

	// Seed makes the hosts others, and gives other clients their turns and manners [0].
	// Names and addresses follow from the clients' numbers alone.
	Seed uint64

	// Systems are how many of the hosts run what, as parts of their sum: linux, windows
	// and darwin [10, 8, 2].
	Systems map[string]int

	Churn   Churn   // who is away when [nobody, never]
	Manners Manners // who is not as it should be [nobody]

	// Bulk are files that every host has as /srv/bulk/<name>, by size in bytes,
	// full of noise that does not compress.
	Bulk map[string]int64

	// FirstAddress is the local address of the first agent in 127.0.0.0/8, the
	// next ones follow it [127.1.0.1]. Servers that are not on loopback are dialled
	// from whatever address the system takes.
	FirstAddress string

	// Route says at which address a target is dialled, as a balancer in front of the
	// servers would [the target itself]. It is called for each connection, by many
	// goroutines.
	Route func(target string) string

	// Restart is the pause before an agent that ended by itself is started again [5 s].
	Restart time.Duration

	Logger      *slog.Logger // of the pool [none]
	AgentLogger *slog.Logger // of all agents [none]
}

var errOption = errors.New("invalid pool option")

func (o *Options) setDefaults() {
	if o.Ramp == 0 {
		o.Ramp = 200
	}
	if o.FirstAddress == "" {
		o.FirstAddress = "127.1.0.1"
	}
	if o.Restart == 0 {
		o.Restart = 5 * time.Second
	}
	if o.Churn.Wave == 0 {
		o.Churn.Wave = 10 * time.Minute
	}
	o.Manners.setDefaults()
	if o.Route == nil {
		o.Route = func(target string) string { return target }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.AgentLogger == nil {
		o.AgentLogger = slog.New(slog.DiscardHandler)
	}
}

func (o *Options) validate() error {
	switch {
	case o.Clients < 1 || o.First < 0:
		return fmt.Errorf("%w: %d clients", errOption, o.Clients)
	case o.Identities == nil || o.Identities.Count() < o.First+o.Clients:
		return fmt.Errorf("%w: fewer identities than clients", errOption)
	case o.Ramp < 0:
		return fmt.Errorf("%w: ramp of %v clients a second", errOption, o.Ramp)
	}
	if err := checkMix(o.Systems); err != nil {
		return err
	}
	if err := o.Churn.validate(); err != nil {
		return err
	}
	return o.Manners.validate()
}

// urls are the server's addresses with the scheme that the agents are to speak.
func (o *Options) urls() []string {
	out := make([]string, len(o.Base.ServerURLs))
	for i, base := range o.Base.ServerURLs {
		out[i] = base
		if rest, ok := strings.CutPrefix(base, "http"); ok && !o.Polling {
			out[i] = "ws" + rest
		}
	}
	return out
}
