package cluster

import (
	"time"

	"github.com/hashicorp/memberlist"

	"raptorpack/internal/retry"
)

// Tuning changes how fast one Cluster of a test does things.
type Tuning func(*tuning)

// NewTuned is New with other tuning.
func NewTuned(o Options, with ...Tuning) (*Cluster, error) {
	pace := usual
	for _, change := range with {
		change(&pace)
	}
	return newCluster(o, pace)
}

// NeverProbe leaves only news by others: nobody is found dead.
func NeverProbe() Tuning { return func(p *tuning) { p.probe = time.Hour } }

// ForgetAtOnce keeps the dead from being told so, which would bring back those that live.
func ForgetAtOnce() Tuning { return func(p *tuning) { p.lastWords = 0 } }

// Rejoin makes rounds of joining quick.
func Rejoin(pause time.Duration) Tuning {
	return func(p *tuning) { p.rejoin, p.settled = retry.Policy{First: pause, Cap: pause}, pause }
}

// Tell makes the looks at the load quick.
func Tell(every time.Duration) Tuning { return func(p *tuning) { p.tell = every } }

// Through puts a cable between a node and its sockets.
func Through(cable func(memberlist.NodeAwareTransport) memberlist.NodeAwareTransport) Tuning {
	return func(p *tuning) { p.through = cable }
}

const (
	MaxInbound     = maxInbound
	MaxStreamBytes = maxStreamBytes
)
