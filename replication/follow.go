package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

// errOvertaken means that a higher epoch than the one followed is led.
var errOvertaken = errors.New("a higher epoch is led")

// followRetry paces turning to a master that does not take us.
var followRetry = retry.Policy{First: 20 * time.Millisecond, Cap: time.Second}

// Follow keeps this node's state in step with whichever other node leads, and
// hands it this node's proposals and facts, until ctx ends (nil). ErrDamaged,
// ErrUnknownKind, ErrVersion and ErrLevel mean that somebody must look: the state
// cannot go on, and the node must not serve.
func (n *Node) Follow(ctx context.Context) error {
	end, err := n.begin("follow")
	if err != nil {
		return err
	}
	defer end()
	if n.bus == nil {
		<-ctx.Done() // alone: nobody to follow
		return nil
	}
	failures, told := 0, ""
	for ctx.Err() == nil {
		p, client, epoch, index, changed := n.bus.leading()
		if p == nil {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		began, err := n.followOne(ctx, p, client, epoch)
		if ctx.Err() != nil {
			break
		}
		if began {
			failures, told = 0, ""
		}
		if failures++; err.Error() != told {
			told = err.Error()
			n.log.Warn("does not follow any more", "peer", p.Incarnation, "epoch", epoch, "index", n.place().index, "err", err)
		}
		if err := n.recover(ctx, err, epoch, index); err != nil {
			return fmt.Errorf("follow: %w", err)
		}
		retry.Sleep(ctx, followRetry.Pause(failures))
	}
	return nil
}

// recover makes ready for another try after one that ended with cause. A state
// that does not lead on to the master's is brought there by files.
func (n *Node) recover(ctx context.Context, cause error, epoch, index uint64) error {
	var err error
	switch {
	case errors.Is(cause, ErrLevel):
		return cause
	case errors.Is(cause, errBehind):
		err = n.catchUp(ctx, epoch, index)
	case errors.Is(cause, ErrDiverged):
		err = n.reload(ctx, cause)
	}
	if err == nil || ctx.Err() != nil {
		return nil
	}
	if hopeless(err) {
		return err
	}
	n.log.Error("cannot catch up from files", "epoch", epoch, "index", n.place().index, "err", err)
	return nil
}

// hopeless reports whether trying again does not help.
func hopeless(err error) bool {
	return errors.Is(err, ErrUnknownKind) || errors.Is(err, ErrVersion) || errors.Is(err, ErrLevel)
}

// reload throws the state away and reads it from files.
func (n *Node) reload(ctx context.Context, cause error) error {
	n.m.reloads.Inc()
	n.log.Error("state is not that of the ledger, loading again", "index", n.place().index, "err", cause)
	n.mu.Lock()
	n.fresh = time.Time{} // until somebody tells anew
	n.mu.Unlock()
	return n.load(ctx)
}

// catchUp reads the ledger's files up to what the master has surely applied.
func (n *Node) catchUp(ctx context.Context, epoch, index uint64) error {
	begin, from := time.Now(), n.place().index
	err := n.readUp(ctx, epoch, index)
	if err != nil && (errors.Is(err, ErrDiverged) || n.overtaken(ctx, err)) {
		err = n.reload(ctx, err)
	}
	if err != nil {
		return err
	}
	n.log.Info("caught up from files", "from", from, "index", n.place().index, "took", time.Since(begin))
	return nil
}

// readUp replays every older epoch to its seal, and the master's up to index.
func (n *Node) readUp(ctx context.Context, epoch, index uint64) error {
	for e := max(n.place().epoch, 1); e < epoch; e++ {
		seal, err := n.sealOf(ctx, e)
		if err == nil && seal == nil {
			err = fmt.Errorf("epoch %d has no seal, but %d is led: %w", e, epoch, ErrGap)
		}
		if err == nil {
			err = n.replayTo(ctx, e, seal)
		}
		if err != nil {
			return err
		}
	}
	return n.replayLive(ctx, epoch, index)
}

// liveRetry paces reading a file anew that its writer may have been about to grow.
var liveRetry = retry.Policy{Tries: 5, First: 20 * time.Millisecond, Cap: 200 * time.Millisecond}

// replayLive replays an epoch that may still be written. Its file grows while it is
// read, so a hole before a whole record may be of our own making: look again.
func (n *Node) replayLive(ctx context.Context, epoch, limit uint64) error {
	again := func(err error) bool { return errors.Is(err, ErrDamaged) }
	return retry.Do(ctx, liveRetry, again, func() error {
		if n.place().index >= limit {
			return nil
		}
		_, err := n.replay(ctx, epoch, limit)
		return err
	})
}

// followOne follows one master until the stream ends. began tells whether it took
// us; the error is never nil.
func (n *Node) followOne(ctx context.Context, p *peer, client buspb.BusClient, epoch uint64) (began bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &follower{n: n, cancel: cancel}
	f.quiet = time.AfterFunc(busSilence, func() { cancel(errSilent) })
	defer f.quiet.Stop()
	if f.stream, err = client.Follow(ctx); err != nil {
		return false, f.why(ctx, err)
	}
	at := n.place()
	if err := f.stream.Send(&buspb.FollowRequest{From: n.bus.introduction(), Index: at.index, Chain: at.chain[:]}); err != nil && !errors.Is(err, io.EOF) {
		return false, f.why(ctx, err)
	}
	answer, err := f.next()
	if err != nil {
		return false, f.why(ctx, err)
	}
	standing := answer.GetStanding()
	if standing == nil || standing.GetEpoch() != epoch {
		return false, fmt.Errorf("the master answers for epoch %d instead of %d: %w", standing.GetEpoch(), epoch, ErrDeposed)
	}
	n.log.Info("follows", "peer", p.Incarnation, "epoch", epoch, "index", at.index, "behind", int64(standing.GetIndex()-at.index))
	return true, f.run(ctx, client, standing)
}

// follower is one conversation with a master.
type follower struct {
	n      *Node
	stream buspb.Bus_FollowClient
	quiet  *time.Timer // ends the conversation; runs while we wait for the other side
	cancel context.CancelCauseFunc
}

// run takes entries until the stream ends, and hands over what this node proposes.
func (f *follower) run(ctx context.Context, client buspb.BusClient, standing *buspb.Standing) error {
	n := f.n
	lead := newRemote(n, client, standing.GetEpoch())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return lead.run(ctx) })
	g.Go(func() error { return f.ping(ctx) })
	g.Go(func() error { return n.bus.overtakes(ctx, standing.GetEpoch()) })
	g.Go(func() error {
		n.props.follow(lead, standing.GetTaken())
		defer func() { n.props.follow(nil, 0); lead.shut() }()
		for {
			answer, err := f.next()
			if err == nil {
				err = f.take(ctx, answer)
			}
			if err != nil {
				return f.why(ctx, err)
			}
		}
	})
	err := g.Wait()
	n.m.followsEnded.Inc()
	return err
}

// next waits for the master's next word.
func (f *follower) next() (*buspb.FollowAnswer, error) {
	f.quiet.Reset(busSilence)
	defer f.quiet.Stop()
	return f.stream.Recv()
}

// why is the reason behind an error of the stream.
func (f *follower) why(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	if errors.Is(err, io.EOF) {
		return ErrNoMaster
	}
	return fromBus(err)
}

func (f *follower) take(ctx context.Context, answer *buspb.FollowAnswer) error {
	switch a := answer.GetAnswer().(type) {
	case *buspb.FollowAnswer_Entries:
		return f.entries(ctx, a.Entries.GetPayloads())
	case *buspb.FollowAnswer_Echo:
		return f.echo(a.Echo)
	}
	return nil // a later version's word that this one can do without
}

func (f *follower) entries(ctx context.Context, payloads [][]byte) error {
	n := f.n
	defer n.announce()
	begin := time.Now()
	for _, payload := range payloads {
		e, at, err := n.entry(payload, n.place())
		if err == nil {
			err = n.take(ctx, e, payload, at)
		}
		if err != nil {
			return err
		}
	}
	n.m.apply.Observe(time.Since(begin).Seconds())
	return nil
}

// echo learns how fresh this node's state is, and holds it against the master's.
func (f *follower) echo(echo *buspb.Echo) error {
	n := f.n
	if err := f.compare(echo.GetSums()); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if p, known := n.window.entry(echo.GetIndex()); known && string(p.sum[:]) != string(echo.GetDigest()) {
		n.m.digestMismatches.Inc()
		return fmt.Errorf("the digest at entry %d is not the master's: %w", echo.GetIndex(), ErrDiverged)
	}
	if n.at.index >= echo.GetIndex() {
		n.fresh = n.began.Add(time.Duration(echo.GetStamp()))
	}
	return nil
}

// compare holds what is in memory here against what the master has.
func (f *follower) compare(master *buspb.StateSums) error {
	differ, heal := f.n.compared.judge(master)
	if len(differ) == 0 {
		return nil
	}
	f.n.m.stateMismatches.Inc()
	if heal {
		return fmt.Errorf("what is in memory of %s before entry %d is not what the master has: %w", strings.Join(differ, ", "), master.GetIndex(), ErrDiverged)
	}
	f.n.log.Error("state is not the master's though it was loaded again: one of the two does not keep to the ledger", "kinds", differ, "index", master.GetIndex())
	return nil
}

// ping tells the master how far this node has settled and asks how far the ledger
// goes.
func (f *follower) ping(ctx context.Context) error {
	for {
		stamp, settled := time.Since(f.n.began), f.n.place().index
		if f.n.bus.o.Settled != nil {
			settled = f.n.bus.o.Settled()
		}
		err := f.stream.Send(&buspb.FollowRequest{Index: settled, Stamp: int64(stamp)})
		if err != nil && !errors.Is(err, io.EOF) { // EOF: Recv says why
			return fromBus(err)
		}
		if !retry.Sleep(ctx, pingEvery) {
			return ctx.Err()
		}
	}
}

// overtakes returns when another node leads a higher epoch.
func (b *bus) overtakes(ctx context.Context, epoch uint64) error {
	for {
		_, _, leads, _, changed := b.leading()
		if leads > epoch {
			return errOvertaken
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Age returns how much older than the ledger this node's state may be: all that was
// acknowledged before is applied here. Not known: nobody has told yet.
func (n *Node) Age() (age time.Duration, known bool) {
	if r := n.reign(); r != nil && r.term.Valid() {
		return 0, true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fresh.IsZero() {
		return 0, false
	}
	return time.Since(n.fresh), true
}

// Lag returns how many entries the master was last heard to have applied which this
// node has not.
func (n *Node) Lag() uint64 {
	if n.bus == nil {
		return 0
	}
	_, _, _, index, _ := n.bus.leading()
	return index - min(index, n.place().index)
}
