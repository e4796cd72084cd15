package filestore_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/ids"
)

// The model: three processes that all want the name fe and write rows under it, two
// watchers that bury and seal, one disk, and mishaps.
const (
	modelProcesses = 3
	modelWatchers  = 2
	modelTTL       = 4 * time.Second
	modelTime      = 100 * time.Second
)

// Whom a blow hits: processes and watchers have numbers, watchers come last.
const (
	theHolder = -1 // whichever process claimed last
	theOthers = -2
	everybody = -3
)

// blow is what befalls some of them.
type blow struct {
	who   int
	pause time.Duration         // since the last one
	fault filestoretest.Fault   // a hang is lifted when its time has come
	lasts time.Duration         // until then
	after []filestoretest.Fault // what goes wrong next
}

// pauses are whole seconds around the times that matter: numbers drawn from a range
// would mostly be small.
var pauses = []int{5, 6, 4, 7, 3, 8, 5, 6, 2, 1, 10, 14}

func drawPause(t *rapid.T, name string) time.Duration {
	return time.Duration(rapid.SampledFrom(pauses).Draw(t, name)*1000+rapid.IntRange(0, 999).Draw(t, "and ms")) * time.Millisecond
}

func drawBlow(t *rapid.T) blow {
	b := blow{
		who:   rapid.SampledFrom([]int{theHolder, theHolder, theHolder, theHolder, theOthers, everybody, 0, 1, 2, 3, 4}).Draw(t, "who"),
		pause: drawPause(t, "pause s"), lasts: drawPause(t, "lasts s"),
	}
	switch rapid.SampledFrom([]string{"hang", "hang", "hang", "fault"}).Draw(t, "kind") {
	case "hang":
		b.fault = filestoretest.Fault{Hang: true, Times: filestoretest.Always}
		b.after = rapid.SliceOfN(rapid.Custom(drawFault), 0, 4).Draw(t, "after")
	case "fault":
		b.fault = drawFault(t)
	}
	return b
}

// places are the calls that the protocol consists of.
var places = []filestoretest.Fault{
	{Op: filestoretest.Link, Path: "nodes/fe/*.end-*"},
	{Op: filestoretest.Open, Path: "nodes/fe/*.end-*"},
	{Op: filestoretest.Write, Path: "nodes/fe/?"},
	{Op: filestoretest.Sync, Path: "nodes/fe/?"},
	{Op: filestoretest.OpenWrite, Path: "nodes/fe/?"},
	{Op: filestoretest.Create, Path: "nodes/fe/.tmp-*"},
	{Op: filestoretest.SyncDir, Path: "nodes/fe"},
	{Op: filestoretest.ReadDir, Path: "nodes/fe"},
	{Op: filestoretest.Open, Path: "nodes/fe/?"},
	{Op: filestoretest.Link, Path: "nodes/fe/?"},
	{},
}

func drawFault(t *rapid.T) filestoretest.Fault {
	f := rapid.SampledFrom(places).Draw(t, "place")
	f.After = rapid.Bool().Draw(t, "call is done")
	f.Times = rapid.IntRange(1, 6).Draw(t, "times")
	switch rapid.SampledFrom([]string{"slow", "fails", "both"}).Draw(t, "how") {
	case "slow":
		f.Delay = drawPause(t, "delay s") / 2
	case "both":
		f.Delay = drawPause(t, "delay s") / 2
		fallthrough
	case "fails":
		f.Err = rapid.SampledFrom([]error{syscall.EIO, syscall.ESTALE, syscall.ENOSPC, syscall.EACCES}).Draw(t, "err")
	}
	return f
}

// world is one play of the model.
type world struct {
	node     ids.Node
	watchers int             // at work: who succeeds must not rely on any
	claim    time.Duration   // how long a claim lasts before it is released; 0: never
	margin   time.Duration   // of those who judge
	slow     []time.Duration // how long each takes to decide: between a look and its link

	mu      sync.Mutex
	holder  int // which process claimed last
	holders []*filestore.Incarnation
	buried  map[string]bool
	acked   map[string]int64 // path: bytes that somebody was told of
	revived int
	wrong   []string
}

// referee looks at every link in the moment it is made.
type referee struct {
	filestore.FS
	world *world
}

func (r referee) Link(oldpath, newpath string) error {
	err := r.FS.Link(oldpath, newpath)
	if err == nil && strings.Contains(newpath, ".end-") {
		r.world.ended(newpath, r.text(newpath))
	}
	return err
}

func (r referee) Rename(oldpath, newpath string) error {
	err := r.FS.Rename(oldpath, newpath)
	if err == nil && strings.Contains(newpath, ".end-") {
		r.world.ended(newpath, r.text(newpath))
	}
	return err
}

func (r referee) text(name string) string {
	f, err := r.Open(name)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	data, _ := io.ReadAll(io.NewSectionReader(f, 0, 1<<16))
	return string(data)
}

func (w *world) ended(name, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !strings.Contains(text, `"buried"`) {
		w.revived++
		return
	}
	number, _, _ := strings.Cut(path.Base(name), ".")
	w.buried[w.node.String()+"-"+number] = true
	w.check("when " + name + " was linked")
}

// check counts who is valid now; the mutex is held.
func (w *world) check(when string) {
	var valid []string
	for _, i := range w.holders {
		if !i.Valid() {
			continue
		}
		valid = append(valid, i.Name())
		if w.buried[i.Name()] {
			w.wrong = append(w.wrong, fmt.Sprintf("%s is buried and valid %s", i.Name(), when))
		}
	}
	if len(valid) > 1 {
		w.wrong = append(w.wrong, fmt.Sprintf("%v are valid %s", valid, when))
	}
}

// process is what a service manager makes of a node: claim, hold, start anew.
func (w *world) process(ctx context.Context, who int, s *filestore.Store) {
	for ctx.Err() == nil {
		i, err := s.ClaimIncarnation(ctx, filestore.IncarnationOptions{Node: w.node, TTL: modelTTL, Margin: w.margin})
		if err != nil {
			time.Sleep(time.Second)
			continue
		}
		w.mu.Lock()
		w.holders, w.holder = append(w.holders, i), who
		w.check("when " + i.Name() + " was claimed")
		w.mu.Unlock()
		w.live(ctx, s, i)
	}
}

// live holds an incarnation and writes rows until it is over.
func (w *world) live(ctx context.Context, s *filestore.Store, i *filestore.Incarnation) {
	life, end := context.WithCancel(ctx)
	if w.claim > 0 {
		life, end = context.WithTimeout(ctx, w.claim)
	}
	defer end()
	var writer sync.WaitGroup
	writer.Go(func() { w.write(life, s, i) })
	err := i.Run(life)
	for errors.Is(err, filestore.ErrLeaseLost) {
		if err = i.Revive(life); err == nil {
			err = i.Run(life)
		}
	}
	end()
	writer.Wait()
	if err == nil && ctx.Err() == nil {
		_ = i.Release(ctx) // its failure only makes others wait
	}
}

// write appends rows one by one: write, sync, and only if the lease holds then, tell.
// A row may hang for three lives before that. Some are given up, and land later.
func (w *world) write(ctx context.Context, s *filestore.Store, i *filestore.Incarnation) {
	for part := 0; ctx.Err() == nil; part++ {
		name := fmt.Sprintf("rows/%s_%d", i.Name(), part)
		h, err := s.CreateFile(ctx, name)
		for at := int64(0); err == nil && ctx.Err() == nil; at++ {
			row, leave := context.WithTimeout(ctx, 3*modelTTL)
			if _, err = h.WriteAt(row, []byte("x"), at); err == nil {
				err = h.Sync(row)
			}
			leave()
			if err == nil && i.Valid() {
				w.mu.Lock()
				w.acked[name] = at + 1
				w.mu.Unlock()
			}
			time.Sleep(200 * time.Millisecond)
		}
		if h != nil {
			_ = h.Close(ctx)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// watch buries and seals as a master does. hesitate makes its verdicts old.
func (w *world) watch(ctx context.Context, s *filestore.Store, hesitate time.Duration) {
	watcher := s.Watcher(modelTTL, w.margin)
	for ctx.Err() == nil {
		all, _ := watcher.Look(ctx) // an error: look again
		for _, info := range all {
			switch {
			case info.Lapsed:
				time.Sleep(hesitate)
				_ = watcher.Bury(ctx, info)
			case info.Dead && !info.Released && !info.Sealed:
				w.seal(ctx, s, info.Name)
			}
		}
		time.Sleep(250 * time.Millisecond)
	}
}

// seal measures what counts of a dead incarnation, and says so for good.
func (w *world) seal(ctx context.Context, s *filestore.Store, name string) {
	lengths := map[string]int64{}
	files, err := s.ReadDir(ctx, "rows")
	for _, file := range files {
		if owner, _, _ := strings.Cut(file, "_"); owner != name || err != nil {
			continue
		}
		var data []byte
		data, err = s.ReadFile(ctx, "rows/"+file, 1<<20)
		lengths["rows/"+file] = int64(len(data))
	}
	if err == nil {
		_ = s.SealIncarnation(ctx, name, lengths) // refused, or somebody was quicker
	}
}

// playLives runs the world for a while.
func playLives(t *testing.T, w *world, blows []blow, hesitate time.Duration) {
	disk := newDisk(t)
	check(t, disk.Mkdir("rows"))
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var faults []*filestoretest.Faulty
	for who := range modelProcesses + modelWatchers {
		faulty := filestoretest.NewFaulty(referee{disk, w})
		faults = append(faults, faulty)
		faulty.Inject(filestoretest.Fault{Op: filestoretest.Link, Times: filestoretest.Always, Delay: w.slow[who]})
		s := openOn(t, faulty)
		if who < modelProcesses {
			all.Go(func() { w.process(ctx, who, s) })
		} else if who < modelProcesses+w.watchers {
			all.Go(func() { w.watch(ctx, s, hesitate*time.Duration(who-modelProcesses)) })
		}
	}
	at := time.Duration(0)
	for _, b := range blows {
		at += b.pause
		when := at
		all.Go(func() {
			time.Sleep(when)
			w.strike(b, faults)
		})
	}
	const step = 100 * time.Millisecond
	for begin := time.Now(); time.Since(begin) < modelTime; {
		time.Sleep(step)
		w.mu.Lock()
		w.check(fmt.Sprint("after ", time.Since(begin)))
		w.mu.Unlock()
	}
	cancel()
	for _, f := range faults {
		f.Clear()
	}
	all.Wait()
	w.audit(t, openOn(t, disk))
}

// strike lets a blow fall on whom it hits, and ends it.
func (w *world) strike(b blow, faults []*filestoretest.Faulty) {
	w.mu.Lock()
	holder := w.holder
	w.mu.Unlock()
	hit := map[*filestoretest.Faulty]*filestoretest.Injection{}
	for who, f := range faults {
		if who == b.who || b.who == everybody || (who == holder) == (b.who == theHolder) && b.who < 0 {
			hit[f] = f.Inject(b.fault)
		}
	}
	time.Sleep(b.lasts)
	for f, i := range hit {
		for _, fault := range b.after {
			f.Inject(fault)
		}
		if b.fault.Hang {
			i.Lift()
		}
	}
}

// audit holds what was told against what the seals say.
func (w *world) audit(t *testing.T, s *filestore.Store) {
	seals, err := s.Seals(t.Context(), func(string) bool { return false })
	check(t, err)
	for _, seal := range seals {
		for name, told := range w.acked {
			owner, _, _ := strings.Cut(path.Base(name), "_")
			if owner == seal.Incarnation && seal.Lengths[name] < told {
				w.wrong = append(w.wrong, fmt.Sprintf("%d rows of %s were told of, the seal cuts it at %d", told, name, seal.Lengths[name]))
			}
		}
	}
}

func TestNoIncarnationIsValidOnceItIsBuriedWhateverHappens(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		check(t, f.Value.Set("40")) // more by hand
		defer func() { check(t, f.Value.Set(f.DefValue)) }()
	}
	revived, buried, told := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		blows := rapid.SliceOfN(rapid.Custom(drawBlow), 12, 24).Draw(rt, "blows")
		hesitate := time.Duration(rapid.IntRange(0, 15_000).Draw(rt, "hesitate ms")) * time.Millisecond
		w := &world{
			node: node(t, "fe"), buried: map[string]bool{}, acked: map[string]int64{},
			watchers: rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(rt, "watchers"),
			claim:    rapid.SampledFrom([]time.Duration{0, 0, 25 * time.Second}).Draw(rt, "claim"),
			margin:   rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, modelTTL}).Draw(rt, "margin"),
			slow: rapid.SliceOfN(rapid.SampledFrom([]time.Duration{
				0, 0, time.Millisecond, time.Second, 2 * time.Second, 3500 * time.Millisecond,
			}), modelProcesses+modelWatchers, modelProcesses+modelWatchers).Draw(rt, "slow"),
		}
		synctest.Test(t, func(t *testing.T) { playLives(t, w, blows, hesitate) })
		if len(w.wrong) > 0 {
			rt.Fatal(w.wrong[:min(len(w.wrong), 5)])
		}
		revived, buried, told = revived+w.revived, buried+len(w.buried), told+len(w.acked)
	})
	if revived == 0 || buried == 0 || told == 0 {
		t.Errorf("%d revivals, %d burials, %d files with rows: the model shows too little", revived, buried, told)
	}
	t.Logf("%d revivals, %d burials, %d files with rows", revived, buried, told)
}
