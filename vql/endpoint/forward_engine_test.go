package endpoint

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/internal/retry"
	"raptorpack/vql"
)

// post is one attempt that a fakeTarget saw.
type post struct {
	at   time.Duration // since the target was made
	rows []string
}

// fakeTarget takes what decide lets it take.
type fakeTarget struct {
	decide func(ctx context.Context, try int, rows [][]byte) forwardAnswer
	begin  time.Time
	taken  int // rows that were encoded; the query's goroutine counts

	mu    sync.Mutex
	posts []post
}

func (f *fakeTarget) encode(ctx context.Context, scope *vql.Scope, row *vql.Dict) ([]byte, error) {
	f.taken++
	v, _ := row.Get("N")
	text := scope.String(ctx, v)
	if text == "bad" {
		return nil, errors.New("a bad row")
	}
	return []byte(text), nil
}

func (f *fakeTarget) post(ctx context.Context, rows [][]byte) forwardAnswer {
	p := post{at: time.Since(f.begin)}
	for _, row := range rows {
		p.rows = append(p.rows, string(row))
	}
	f.mu.Lock()
	f.posts = append(f.posts, p)
	try := len(f.posts)
	f.mu.Unlock()
	if f.decide == nil {
		return forwardAnswer{status: 200, text: "ok"}
	}
	return f.decide(ctx, try, rows)
}

func (f *fakeTarget) seen() []post {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]post(nil), f.posts...)
}

func (f *fakeTarget) row(o *forwardOutcome) *vql.Dict {
	row := vql.NewDict()
	row.Set("Rows", int64(o.rows))
	row.Set("Flush", o.flush)
	row.Set("Response", o.response())
	return row
}

// away answers as a target that is not there.
func away(_ context.Context, _ int, rows [][]byte) forwardAnswer {
	return forwardAnswer{again: rows, reason: "away"}
}

// bench runs post(query={SELECT * FROM feed()}) with a target and a feed of ours.
type bench struct {
	t       *testing.T
	target  *fakeTarget
	options forwardOptions
	feed    func(ctx context.Context, emit func(string) error) error

	mu   sync.Mutex
	rows []string
	logs []string
}

func newBench(t *testing.T) *bench {
	return &bench{t: t, target: &fakeTarget{begin: time.Now()}, options: forwardOptions{
		name: "post", batchRows: 10, batchBytes: 1 << 20, wait: 2 * time.Second, retries: 3,
		pause: retry.Policy{First: time.Second, Cap: time.Minute}.Pause,
	}}
}

type feedArgs struct {
	Query vql.Query `vql:"query"`
}

func (b *bench) run(ctx context.Context, query string) error {
	b.t.Helper()
	feed := vql.NewPlugin(vql.Spec{Name: "feed"}, func(ctx context.Context, _ *vql.Scope, _ *feedArgs, emit vql.Emit) error {
		return b.feed(ctx, func(text string) error { return emit(vql.NewDict().Set("N", text)) })
	})
	forwarding := vql.NewPlugin(vql.Spec{Name: "post"}, func(ctx context.Context, scope *vql.Scope, args *feedArgs, emit vql.Emit) error {
		return forward(ctx, scope, b.options, b.target, args.Query, emit)
	})
	engine, err := vql.NewEngine(nil, []*vql.Plugin{feed, forwarding})
	if err != nil {
		b.t.Fatal(err)
	}
	scope := engine.NewScope(vql.SessionOptions{Limits: vql.Limits{TempDir: b.t.TempDir()}, Log: func(level, message string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.logs = append(b.logs, level+": "+message)
	}})
	defer scope.Close()
	program, err := vql.Parse(query)
	if err != nil {
		b.t.Fatal(err)
	}
	return scope.RunProgram(ctx, program, func(row *vql.Dict) error {
		b.rows = append(b.rows, string(vql.AppendJSON(nil, row)))
		return nil
	})
}

const postAll = `SELECT * FROM post(query={SELECT * FROM feed()})`

// errorLines are the log's lines that say something was lost.
func (b *bench) errorLines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, line := range b.logs {
		if strings.HasPrefix(line, "ERROR") {
			out = append(out, line)
		}
	}
	return out
}

func (b *bench) want(what string, got, want any) {
	b.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Errorf("%s\ngot  %v\nwant %v\nlog %v", what, got, want, b.logs)
	}
}

// count feeds the numbers from 0 to n-1.
func count(n int) func(context.Context, func(string) error) error {
	return func(_ context.Context, emit func(string) error) error {
		for i := range n {
			if err := emit(fmt.Sprint(i)); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestForwardGathersByCountBytesTimeAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.options.batchBytes = 8
		b.options.batchRows = 3
		b.feed = func(_ context.Context, emit func(string) error) error {
			for _, text := range []string{"a", "b", "c", "longer", "long", "late", "end"} {
				if text == "late" || text == "end" {
					time.Sleep(5 * time.Second)
				}
				if err := emit(text); err != nil {
					return err
				}
			}
			return nil
		}
		if err := b.run(t.Context(), postAll); err != nil {
			t.Fatal(err)
		}
		b.want("posts", b.target.seen(), []post{
			{0, []string{"a", "b", "c"}},
			{0, []string{"longer"}},
			{2 * time.Second, []string{"long"}},
			{7 * time.Second, []string{"late"}},
			{10 * time.Second, []string{"end"}},
		})
		b.want("rows", strings.Join(b.rows, " "), `{"Rows":3,"Flush":"count","Response":"ok"} {"Rows":1,"Flush":"bytes","Response":"ok"} `+
			`{"Rows":1,"Flush":"time","Response":"ok"} {"Rows":1,"Flush":"time","Response":"ok"} {"Rows":1,"Flush":"end","Response":"ok"}`)
		b.want("errors", b.errorLines(), []string{})
	})
}

func TestForwardWaitsLongerEachTimeAndSendsOnlyWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.feed = count(3)
		b.target.decide = func(_ context.Context, try int, rows [][]byte) forwardAnswer {
			switch try {
			case 1:
				return forwardAnswer{again: rows, reason: "busy"}
			case 2:
				return forwardAnswer{again: rows[1:], reason: "busy", after: 30 * time.Second}
			}
			return forwardAnswer{status: 200, text: "ok"}
		}
		if err := b.run(t.Context(), postAll); err != nil {
			t.Fatal(err)
		}
		posts := b.target.seen()
		if len(posts) != 3 {
			t.Fatalf("posts: %v", posts)
		}
		b.want("second", posts[1].rows, []string{"0", "1", "2"})
		b.want("third", posts[2].rows, []string{"1", "2"})
		if pause := posts[1].at - posts[0].at; pause < time.Second/2 || pause > time.Second {
			t.Errorf("first pause: %v", pause)
		}
		if pause := posts[2].at - posts[1].at; pause != 30*time.Second {
			t.Errorf("the target asked for 30 s, got %v", pause)
		}
		b.want("rows", b.rows, []string{`{"Rows":3,"Flush":"end","Response":"ok"}`})
	})
}

func TestForwardTellsOfWhatItGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.feed = func(_ context.Context, emit func(string) error) error {
			for _, text := range []string{"1", "bad", "2", "3"} {
				if err := emit(text); err != nil {
					return err
				}
			}
			return nil
		}
		b.target.decide = func(_ context.Context, try int, rows [][]byte) forwardAnswer {
			if try == 1 {
				return forwardAnswer{again: rows[1:], refused: 1, reason: "wrong type"}
			}
			return away(t.Context(), try, rows)
		}
		if err := b.run(t.Context(), postAll); err != nil {
			t.Fatal(err)
		}
		b.want("attempts", len(b.target.seen()), 4)
		b.want("rows", strings.Join(b.rows, "\n"), `{"Rows":3,"Flush":"end","Response":"gave up 3 of 3 rows: away (after 4 attempts)"}`+"\n"+
			`{"Rows":1,"Flush":"end","Response":"gave up 1 of 1 rows: a bad row"}`)
		b.want("errors", strings.Join(b.errorLines(), "\n"), "ERROR: post: gave up 3 of 3 rows: away (after 4 attempts)\n"+
			"ERROR: post: delivered 0 rows in 4 posts, gave up 4")
	})
}

func TestForwardHalvesWhatIsTooLarge(t *testing.T) {
	b := newBench(t)
	b.feed = count(10)
	b.target.decide = func(_ context.Context, _ int, rows [][]byte) forwardAnswer {
		if len(rows) > 3 {
			return forwardAnswer{again: rows, large: true, reason: "too large"}
		}
		return forwardAnswer{text: "ok"}
	}
	if err := b.run(t.Context(), postAll); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range b.target.seen() {
		if len(p.rows) <= 3 {
			got = append(got, p.rows...)
		}
	}
	b.want("delivered", got, []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"})
	b.want("errors", b.errorLines(), []string{})
}

func TestForwardHoldsTheQueryWhileItsBufferIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.options.buffer = minForwardBuffer
		b.options.threads = 3
		const size, all = 1 << 10, 500
		var emitted int // written by the feed alone, read when the bubble stands still
		b.feed = func(_ context.Context, emit func(string) error) error {
			for range all {
				if err := emit(strings.Repeat("x", size)); err != nil {
					return err
				}
				emitted++
			}
			return nil
		}
		open := make(chan struct{}) // closed when the target takes rows
		b.target.decide = func(context.Context, int, [][]byte) forwardAnswer {
			<-open
			return forwardAnswer{text: "ok"}
		}
		done := make(chan error, 1)
		go func() { done <- b.run(t.Context(), postAll) }()
		synctest.Wait()
		// One row more stands in the engine, one waits for room.
		if bound := minForwardBuffer/size + 2; emitted > bound || emitted < bound/2 {
			t.Errorf("%d rows of %d bytes were taken into a buffer of %d", emitted, size, minForwardBuffer)
		}
		close(open)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		delivered := 0
		for _, p := range b.target.seen() {
			delivered += len(p.rows)
		}
		b.want("delivered", delivered, all)
	})
}

func TestForwardPostsWhatItHoldsWhenTheQueryIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.feed = func(ctx context.Context, emit func(string) error) error {
			if err := emit("held"); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.run(ctx, postAll) }()
		synctest.Wait()
		b.want("before", len(b.target.seen()), 0)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		b.want("posts", b.target.seen(), []post{{0, []string{"held"}}})
		b.want("errors", b.errorLines(), []string{})
	})
}

func TestForwardEndsSoonAfterCancellationAndCountsWhatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.options.retries = -1
		b.options.batchRows = 1
		b.feed = func(ctx context.Context, emit func(string) error) error {
			if err := count(7)(ctx, emit); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}
		b.target.decide = away
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.run(ctx, postAll) }()
		time.Sleep(time.Hour)
		if tries := len(b.target.seen()); tries < 60 {
			t.Errorf("%d attempts in an hour", tries)
		}
		cancel()
		from := time.Now()
		<-done
		if took := time.Since(from); took > forwardLinger {
			t.Errorf("it took %v to end", took)
		}
		lines := b.errorLines()
		b.want("lines", len(lines), 2)
		b.want("all are counted", strings.HasSuffix(lines[len(lines)-1], "gave up 7"), true)
	})
}

func TestForwardEndsWhenNobodyWantsFurtherRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.options.batchRows = 2
		b.feed = func(ctx context.Context, emit func(string) error) error {
			for i := 0; ; i++ {
				if err := emit(fmt.Sprint(i)); err != nil {
					return err
				}
			}
		}
		if err := b.run(t.Context(), postAll+" LIMIT 1"); err != nil {
			t.Fatal(err)
		}
		b.want("rows", b.rows, []string{`{"Rows":2,"Flush":"count","Response":"ok"}`})
		b.want("errors", b.errorLines(), []string{})
	})
}

func TestForwardTellsHowFarItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.options.stats = time.Minute
		b.feed = func(_ context.Context, emit func(string) error) error {
			err := emit("a")
			time.Sleep(time.Minute + time.Second)
			return err
		}
		if err := b.run(t.Context(), postAll); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(b.logs, "\n"), "INFO: post: 1 rows in 1 posts, 0 given up") {
			t.Errorf("log: %v", b.logs)
		}
	})
}

func TestForwardDoesNotWaitForABatchThatTheBufferCannotHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.options.buffer = minForwardBuffer
		b.options.batchRows = maxForwardRows
		b.options.wait = time.Hour
		b.feed = count(5000) // tiny rows, which hold more than their bytes
		if err := b.run(t.Context(), postAll); err != nil {
			t.Fatal(err)
		}
		delivered := 0
		for _, p := range b.target.seen() {
			delivered += len(p.rows)
			b.want("time", p.at, time.Duration(0))
		}
		b.want("delivered", delivered, 5000)
	})
}

func TestForwardCountsTheRowThatWaitedForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.options.buffer = minForwardBuffer
		b.options.retries = -1
		b.target.decide = away
		b.feed = func(_ context.Context, emit func(string) error) error {
			for {
				if err := emit(strings.Repeat("x", 1<<10)); err != nil {
					return err
				}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.run(ctx, postAll) }()
		synctest.Wait()
		cancel()
		<-done
		var lost int
		lines := b.errorLines()
		if _, err := fmt.Sscanf(lines[len(lines)-1][strings.LastIndex(lines[len(lines)-1], "gave up"):], "gave up %d", &lost); err != nil {
			t.Fatal(lines)
		}
		if lost != b.target.taken {
			t.Errorf("%d rows were taken, %d are told of", b.target.taken, lost)
		}
	})
}
