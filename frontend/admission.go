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

	// firstBytes of a small body are read before it takes any memory that others
	// wait for. Check-ins and enrolments end within them, so that a sender who
	// dawdles holds nothing. Of a large body less shows whose it is.
	firstBytes      = 4 << 10
	firstLargeBytes = 1 << 10

	// smallHold is the least that a small body counts, for what is made of it.
	smallHold = 16 << 10

	// urgentBody is what an urgent post may have to go past the others; the
	// header that claims it is not authenticated.
	urgentBody = 1 << 20

	// usualBody is what nearly all frames stay below with customary settings.
	usualBody = 8 << 20

	addressesKept = 65_536
	addressTrust  = time.Hour
)

var (
	errOversize = errors.New("body exceeds the limit of this server")
	errStranger = errors.New("large body of a sender not known yet")
	errTurn     = errors.New("no turn among the large bodies")
)

// admission bounds the memory that posts take, before all but their first bytes
// are read.
//
// A stock client puts its session behind the payload, so a large body cannot be
// told from garbage until it has been read. Whoever proved himself from the same
// address within the hour, or puts his session first, queues for the large share;
// everybody else's large bodies get a small share of their own, without a queue,
// as their bytes come. (Refusing those altogether would lock out a client whose
// balancer sends its posts to a node that never sees its polls.)
//
// Half of the small share is for sessions that are known. Of the rest, and of the
// strangers' share, one source gets about half.
type admission struct {
	small     *semaphore.Weighted
	reserved  *semaphore.Weighted // small bodies of known sessions
	large     *semaphore.Weighted
	urgent    *semaphore.Weighted
	stranger  *semaphore.Weighted
	inflate   *semaphore.Weighted
	smallBy   *sources
	largeBy   *sources                        // of strangers
	addresses *otter.Cache[string, time.Time] // when a packet from there was authentic
	opener    *wire.Opener
	maxBody   int64
	usual     int64
	wait      time.Duration
}

func newAdmission(o *Options, opener *wire.Opener) (*admission, error) {
	addresses, err := otter.New(&otter.Options[string, time.Time]{MaximumSize: addressesKept, Executor: func(task func()) { task() }})
	if err != nil {
		return nil, fmt.Errorf("cache of addresses: %w", err)
	}
	strangers := max(0, o.StrangerMemory)
	return &admission{
		small: semaphore.NewWeighted(o.SmallMemory / 2), reserved: semaphore.NewWeighted(o.SmallMemory / 2),
		large: semaphore.NewWeighted(o.BodyMemory), urgent: semaphore.NewWeighted(32 << 20), stranger: semaphore.NewWeighted(strangers),
		inflate: semaphore.NewWeighted(o.InflateMemory), addresses: addresses, opener: opener, wait: o.AdmissionWait,
		smallBy: newSources(o.SmallMemory / 4),
		// A third of the limit is more than a client sends at once if the limit
		// fits its settings.
		largeBy: newSources(max(strangers/2, o.MaxBody/3)),
		maxBody: o.MaxBody, usual: max(usualBody, o.MaxBody/4),
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
	source  string // who counts as one; empty: counts as nobody
	known   bool   // the connection authenticated itself before, or the session did
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
	from interface{ Release(n int64) }
	n    int64
}

func (t *ticket) hold(from interface{ Release(n int64) }, n int64) {
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
// of no more use. Errors: errOversize before anything of a declared body was read,
// errStranger, errTurn; otherwise those of body.
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
	a, size := t.admission, t.claim.size
	most := int64(firstBytes)
	switch {
	case size > a.maxBody:
		return nil, fmt.Errorf("%d bytes: %w", size, errOversize)
	case size > smallBody:
		most = firstLargeBytes
	case size >= 0:
		most = min(most, size)
	}
	head, ended, err := readFirst(body, most)
	if err != nil {
		return nil, err
	}
	t.claim.known = t.claim.known || a.opener.Recognises(head)
	switch {
	case size > smallBody:
		return t.readLarge(ctx, body, head)
	case ended, size == int64(len(head)):
		return head, t.takeSmall(ctx, int64(len(head)))
	case size >= 0:
		if err := t.takeSmall(ctx, size); err != nil {
			return nil, err
		}
		return readExactly(body, head, size)
	}
	return t.readUnsized(ctx, body, head)
}

// readFirst reads so many bytes, or to the end.
func readFirst(body io.Reader, most int64) (head []byte, ended bool, err error) {
	head = make([]byte, most)
	for n := 0; n < len(head); {
		more, err := body.Read(head[n:])
		n += more
		switch {
		case errors.Is(err, io.EOF):
			return head[:n], true, nil
		case err != nil:
			return nil, false, err
		}
	}
	return head, false, nil
}

// readLarge reads a body whose size is declared.
func (t *ticket) readLarge(ctx context.Context, body io.Reader, head []byte) ([]byte, error) {
	size := t.claim.size
	if !t.trusted() { // whose word is no reason to keep room free
		return t.readGrowing(body, head, size, 0)
	}
	if err := t.take(ctx, size); err != nil {
		return nil, err
	}
	return readExactly(body, head, size)
}

// readUnsized reads a frame, or a chunked body, whose size shows at its end. It
// takes its turn when the size of a small one is passed: once, and for what is
// usual, since those who wait for more while they hold some could wait for each
// other.
func (t *ticket) readUnsized(ctx context.Context, body io.Reader, head []byte) ([]byte, error) {
	if err := t.takeSmall(ctx, smallBody); err != nil {
		return nil, err
	}
	rest, ended, err := readFirst(body, smallBody-int64(len(head)))
	data := append(head, rest...)
	if err != nil || ended {
		return data, err
	}
	room := int64(0)
	if t.trusted() {
		room = t.admission.usual
		if err := t.take(ctx, room); err != nil {
			return nil, err
		}
	}
	return t.readGrowing(body, data, t.admission.maxBody, room)
}

// largestStep bounds the memory that a body takes ahead of its bytes.
const largestStep = 8 << 20

// readGrowing goes on behind what was read, within room that was taken before;
// past it, it takes more only if nobody has to be waited for. Memory grows by four
// times what has come, since copying in small steps was a third of the cost of an
// upload.
func (t *ticket) readGrowing(body io.Reader, data []byte, most, room int64) ([]byte, error) {
	for {
		if len(data) == cap(data) {
			by := min(4*int64(cap(data)), largestStep, most-int64(len(data))+1)
			if by > room {
				if err := t.takeNow(by); err != nil {
					return nil, err
				}
				room += by
			}
			room -= by
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
			t.giveBack(room)
			return data, nil
		case err != nil:
			return nil, err
		}
	}
}

// trusted reports whether the sender may use the share of the large ones.
func (t *ticket) trusted() bool { return t.claim.known || t.admission.vouched(t.claim.address) }

// takeSmall gets the memory of a small body.
func (t *ticket) takeSmall(ctx context.Context, n int64) error {
	a := t.admission
	n = max(n, smallHold)
	switch {
	case !t.claim.known:
		if !t.takeOf(a.smallBy, n) {
			return fmt.Errorf("too much from %s: %w", t.claim.source, errTurn)
		}
	case a.reserved.TryAcquire(n):
		t.hold(a.reserved, n)
		return nil
	}
	if err := acquire(ctx, a.small, n, a.wait); err != nil {
		return errTurn
	}
	t.hold(a.small, n)
	return nil
}

// take gets n bytes of the share of large ones, and may wait for them.
func (t *ticket) take(ctx context.Context, n int64) error {
	a := t.admission
	if t.claim.urgent && n <= urgentBody && a.urgent.TryAcquire(n) {
		t.hold(a.urgent, n)
		return nil
	}
	if err := acquire(ctx, a.large, n, a.wait); err != nil {
		return fmt.Errorf("%d bytes: %w", n, errTurn)
	}
	t.hold(a.large, n)
	return nil
}

// takeNow gets n bytes of the share that the sender may use, if they are free.
func (t *ticket) takeNow(n int64) error {
	a := t.admission
	if t.trusted() {
		if !a.large.TryAcquire(n) {
			return fmt.Errorf("%d bytes: %w", n, errTurn)
		}
		t.hold(a.large, n)
		return nil
	}
	if !t.takeOf(a.largeBy, n) || !a.stranger.TryAcquire(n) {
		return fmt.Errorf("%d bytes: %w", n, errStranger)
	}
	t.hold(a.stranger, n)
	return nil
}

// takeOf counts n for the sender's source.
func (t *ticket) takeOf(s *sources, n int64) bool {
	if !s.take(t.claim.source, n) {
		return false
	}
	t.hold(sourceHold{s, t.claim.source}, n)
	return true
}

// giveBack gives up n bytes of what was taken last.
func (t *ticket) giveBack(n int64) {
	if n == 0 {
		return
	}
	last := &t.held[len(t.held)-1]
	last.from.Release(n)
	last.n -= n
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
