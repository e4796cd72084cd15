package frontend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/semaphore"

	"raptorpack/wire"
)

const (
	// smallBody is what a post of an unknown sender may have: enrolments and
	// check-ins stay far below. It is also the bound of what needs no turn
	// among the large ones.
	smallBody = 64 << 10

	// urgentBody is what an urgent post may have to go past the others; the
	// header that claims it is not authenticated.
	urgentBody = 1 << 20

	addressesKept = 65_536
	addressTrust  = time.Hour
)

var (
	errOversize = errors.New("body exceeds the limit of this server")
	errStranger = errors.New("large body of a sender not known yet")
	errTurn     = errors.New("no turn among the large bodies")
)

// admission bounds the memory that posts take, before they are read.
//
// A stock client puts its session behind the payload, so a large body cannot be
// told from garbage until it has been read. Whoever proved himself from the same
// address within the hour, or puts his session first, queues for the large share;
// everybody else's large bodies get a small share of their own, without a queue.
// (Refusing those altogether would lock out a client whose balancer sends its
// posts to a node that never sees its polls.)
type admission struct {
	small     *semaphore.Weighted
	large     *semaphore.Weighted
	urgent    *semaphore.Weighted
	stranger  *semaphore.Weighted
	inflate   *semaphore.Weighted
	addresses *otter.Cache[string, time.Time] // when a packet from there was authentic
	opener    *wire.Opener
	maxBody   int64
	wait      time.Duration
}

func newAdmission(o *Options, opener *wire.Opener) (*admission, error) {
	addresses, err := otter.New(&otter.Options[string, time.Time]{MaximumSize: addressesKept, Executor: func(task func()) { task() }})
	if err != nil {
		return nil, fmt.Errorf("cache of addresses: %w", err)
	}
	return &admission{
		small: semaphore.NewWeighted(o.SmallMemory), large: semaphore.NewWeighted(o.BodyMemory),
		urgent: semaphore.NewWeighted(32 << 20), stranger: semaphore.NewWeighted(max(0, o.StrangerMemory)),
		inflate: semaphore.NewWeighted(o.InflateMemory), addresses: addresses, opener: opener, maxBody: o.MaxBody, wait: o.AdmissionWait,
	}, nil
}

// vouch notes that an authentic packet came from address.
func (a *admission) vouch(address string) {
	now := time.Now()
	if at, ok := a.addresses.GetIfPresent(address); !ok || now.Sub(at) > addressTrust/4 {
		a.addresses.Set(address, now)
	}
}

func (a *admission) vouched(address string) bool {
	at, ok := a.addresses.GetIfPresent(address)
	return ok && time.Since(at) < addressTrust
}

// claim is what is known of a body before it is read.
type claim struct {
	size    int64 // less than zero: not said
	address string
	known   bool // the connection authenticated itself before
	urgent  bool
}

// ticket holds memory for one post. One goroutine uses it.
type ticket struct {
	admission *admission
	claim     claim
	held      []hold
	inflated  int64
}

type hold struct {
	from *semaphore.Weighted
	n    int64
}

func (t *ticket) hold(from *semaphore.Weighted, n int64) {
	t.held = append(t.held, hold{from, n})
}

// close gives everything back.
func (t *ticket) close() {
	for _, h := range t.held {
		h.from.Release(h.n)
	}
	t.held = nil
	t.rest()
}

// rest gives back the memory of what was inflated and is gone.
func (t *ticket) rest() {
	t.admission.inflate.Release(t.inflated)
	t.inflated = 0
}

// reserve is a wire.Reserve for inflating.
func (t *ticket) reserve(ctx context.Context) wire.Reserve {
	return func(n int64) error {
		if err := acquire(ctx, t.admission.inflate, n, t.admission.wait/2); err != nil {
			return fmt.Errorf("inflate: %w", wire.ErrBusy)
		}
		t.inflated += n
		return nil
	}
}

func acquire(ctx context.Context, from *semaphore.Weighted, n int64, wait time.Duration) error {
	if from.TryAcquire(n) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return from.Acquire(ctx, n)
}

// read admits a body and reads it. The ticket must be closed when the bytes are
// of no more use. Errors: errOversize, errStranger, errTurn before anything of a
// declared body was read; otherwise those of body.
func (a *admission) read(ctx context.Context, body io.Reader, c claim) ([]byte, *ticket, error) {
	t := &ticket{admission: a, claim: c}
	data, err := t.read(ctx, body)
	if err != nil {
		t.close()
		return nil, nil, err
	}
	return data, t, nil
}

func (t *ticket) read(ctx context.Context, body io.Reader) ([]byte, error) {
	a, c := t.admission, t.claim
	switch {
	case c.size > a.maxBody:
		return nil, fmt.Errorf("%d bytes: %w", c.size, errOversize)
	case c.size > smallBody:
		return t.readLarge(ctx, body)
	}
	if err := acquire(ctx, a.small, smallBody/4, a.wait); err != nil {
		return nil, errTurn
	}
	t.hold(a.small, smallBody/4)
	if c.size >= 0 {
		return readExactly(body, nil, c.size)
	}
	return t.readUnsized(ctx, body)
}

// readLarge reads a body whose size is declared.
func (t *ticket) readLarge(ctx context.Context, body io.Reader) ([]byte, error) {
	c := t.claim
	var head []byte
	if !c.known && !t.admission.vouched(c.address) {
		var err error
		if head, err = readExactly(body, nil, min(c.size, 1024)); err != nil {
			return nil, err
		}
		t.claim.known = t.admission.opener.Recognises(head)
	}
	if err := t.take(ctx, c.size); err != nil {
		return nil, err
	}
	return readExactly(body, head, c.size)
}

// readUnsized reads a frame, or a chunked body, whose size shows at its end. It
// takes its turn when the size of a small one is passed.
func (t *ticket) readUnsized(ctx context.Context, body io.Reader) ([]byte, error) {
	data, err := wire.ReadWithin(io.LimitReader(body, smallBody), smallBody, nil)
	if err != nil || len(data) < smallBody {
		return data, err
	}
	t.claim.known = t.claim.known || t.admission.opener.Recognises(data[:1024])
	return t.readRest(ctx, body, data)
}

// largestStep bounds the memory that a frame takes ahead of its bytes.
const largestStep = 8 << 20

// readRest goes on behind what was read. Frames do not tell their size; memory
// grows by four times what has come, since copying in small steps was a third of
// the cost of an upload.
func (t *ticket) readRest(ctx context.Context, body io.Reader, data []byte) ([]byte, error) {
	most := t.admission.maxBody
	for {
		if len(data) == cap(data) {
			by := min(4*int64(cap(data)), largestStep, most-int64(len(data))+1)
			if err := t.take(ctx, by); err != nil {
				return nil, err
			}
			larger := make([]byte, len(data), int64(len(data))+by)
			copy(larger, data)
			data = larger
		}
		n, err := body.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case int64(len(data)) > most:
			return nil, fmt.Errorf("more than %d bytes: %w", most, errOversize)
		case errors.Is(err, io.EOF):
			return data, nil
		case err != nil:
			return nil, err
		}
	}
}

// take gets n bytes of the share that the sender may use.
func (t *ticket) take(ctx context.Context, n int64) error {
	a, c := t.admission, t.claim
	if !c.known && !a.vouched(c.address) {
		if !a.stranger.TryAcquire(n) {
			return fmt.Errorf("%d bytes: %w", n, errStranger)
		}
		t.hold(a.stranger, n)
		return nil
	}
	if c.urgent && n <= urgentBody && a.urgent.TryAcquire(n) {
		t.hold(a.urgent, n)
		return nil
	}
	if err := acquire(ctx, a.large, n, a.wait); err != nil {
		return fmt.Errorf("%d bytes: %w", n, errTurn)
	}
	t.hold(a.large, n)
	return nil
}

// readExactly reads size bytes of which head was read before. Memory is taken at
// once only as far as it is admitted.
func readExactly(body io.Reader, head []byte, size int64) ([]byte, error) {
	data := make([]byte, size)
	n := copy(data, head)
	if _, err := io.ReadFull(body, data[n:]); err != nil {
		return nil, fmt.Errorf("read body of %d bytes: %w", size, err)
	}
	return data, nil
}
