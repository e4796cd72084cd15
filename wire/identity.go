package wire

import (
	"context"
	"crypto/rsa"
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"raptorpack/internal/subject"
)

// IdentityOptions describe the message-layer identity that all nodes of a
// deployment share.
type IdentityOptions struct {
	Key         *rsa.PrivateKey // Frontend.private_key
	Certificate []byte          // Frontend.certificate, PEM: the answer of server.pem

	// OperationsPerSecond bounds the operations with the private key that open
	// sessions of clients; zero is 200 for each CPU. Burst is twice that. Half as
	// many go beside them for sessions with clients that are known already.
	OperationsPerSecond float64

	// Workers bounds those that run at once; zero is the number of CPUs.
	Workers int

	// MaxWait is how long an operation may wait for its turn before ErrBusy;
	// zero is 5 s, less than zero does not wait.
	MaxWait time.Duration

	Registerer prometheus.Registerer // nil: no metrics are exported
}

// Identity is the server's name and key, with admission to the operations that
// need the private half: the dearest work a frontend does. Safe for concurrent
// use.
type Identity struct {
	name    string
	pem     []byte
	key     *rsa.PrivateKey
	opening *rate.Limiter // what anybody may cause
	sealing *rate.Limiter // what only known clients cause: strangers leave it alone
	workers chan struct{} // full: the operation waits, within maxWait
	maxWait time.Duration
	metrics *metrics
}

// NewIdentity checks that key and certificate belong together.
func NewIdentity(o IdentityOptions) (*Identity, error) {
	certificate, err := parseCertificate(o.Certificate)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	public, ok := certificate.PublicKey.(*rsa.PublicKey)
	if !ok || o.Key == nil || !public.Equal(&o.Key.PublicKey) {
		return nil, fmt.Errorf("server certificate %q: not for the server's private key: %w", subject.Name(certificate), ErrMalformed)
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.OperationsPerSecond <= 0 {
		o.OperationsPerSecond = 200 * float64(o.Workers)
	}
	if o.MaxWait == 0 {
		o.MaxWait = 5 * time.Second
	}
	return &Identity{
		name: subject.Name(certificate), pem: o.Certificate, key: o.Key,
		opening: newBudget(o.OperationsPerSecond), sealing: newBudget(o.OperationsPerSecond / 2),
		workers: make(chan struct{}, o.Workers), maxWait: max(0, o.MaxWait), metrics: newMetrics(o.Registerer),
	}, nil
}

func newBudget(perSecond float64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), max(1, int(2*perSecond)))
}

// Name is the subject name that clients pin.
func (i *Identity) Name() string { return i.name }

// PEM is the answer of server.pem. It must not be changed.
func (i *Identity) PEM() []byte { return i.pem }

// private runs one operation with the private key when its turn comes, or gives
// ErrBusy.
func (i *Identity) private(ctx context.Context, kind string, budget *rate.Limiter, operation func(*rsa.PrivateKey) error) error {
	start := time.Now()
	release, err := i.turn(ctx, budget)
	if err != nil {
		i.metrics.private.WithLabelValues("refused").Inc()
		return fmt.Errorf("%s: %w", kind, err)
	}
	defer release()
	i.metrics.wait.Observe(time.Since(start).Seconds())
	i.metrics.private.WithLabelValues(kind).Inc()
	return operation(i.key)
}

func (i *Identity) turn(ctx context.Context, budget *rate.Limiter) (func(), error) {
	r := budget.Reserve()
	if !r.OK() || r.Delay() > i.maxWait {
		r.Cancel()
		return nil, ErrBusy
	}
	patience := time.NewTimer(i.maxWait + time.Millisecond)
	defer patience.Stop()
	if delay := r.Delay(); delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			r.Cancel()
			return nil, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
		}
	}
	select {
	case i.workers <- struct{}{}:
		return func() { <-i.workers }, nil
	case <-patience.C:
		return nil, ErrBusy
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
}
