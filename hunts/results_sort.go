package hunts

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"raptorpack/filestore"
	"raptorpack/internal/jsonrow"
)

// Progress is how far a sort is.
type Progress struct {
	Waiting bool  // for other sorts
	Rows    int64 // looked at; all of them: what is left is to merge
	Of      int64
}

// sortJob is the sort of one query at one moment. Its file is the places of the rows
// in their order.
type sortJob struct {
	view *tableView
	done chan struct{} // closed when file or err stands
	rows atomic.Int64  // looked at

	// Guarded by Results.mu.
	asked   time.Time // last; zero: forgotten
	running bool
	cancel  context.CancelCauseFunc // while it runs
	ended   bool
	err     error
	file    *tempFile
	users   int // who waits for it or reads its file
	count   int64
	told    filestore.Walked
}

// Run sorts tables, one after the other, and forgets those that nobody asks for,
// until ctx ends. Temporary files are gone when it returns.
func (r *Results) Run(ctx context.Context) error {
	tidied := make(chan struct{}) // closed at the end
	go func() {
		defer close(tidied)
		r.tidy(ctx)
	}()
	for ctx.Err() == nil {
		select {
		case j := <-r.queue:
			r.work(ctx, j)
		case <-ctx.Done():
		}
	}
	<-tidied
	return r.forget(func(*sortJob) bool { return true })
}

// tidy forgets what nobody asks for.
func (r *Results) tidy(ctx context.Context) {
	tick := time.NewTicker(max(time.Millisecond, min(r.o.SortKeep, r.o.SortLeft)/4))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := r.forget(func(j *sortJob) bool {
			idle := time.Since(j.asked)
			return j.users == 0 && (idle > r.o.SortKeep || !j.ended && idle > r.o.SortLeft)
		})
		if err != nil {
			r.log.WarnContext(ctx, "temporary file of a sort cannot be closed", "err", err)
		}
	}
}

// forget cancels and drops sorts.
func (r *Results) forget(which func(*sortJob) bool) error {
	r.mu.Lock()
	var files []*tempFile
	for name, j := range r.jobs {
		if !which(j) {
			continue
		}
		delete(r.jobs, name)
		j.asked = time.Time{}
		switch {
		case j.cancel != nil:
			j.cancel(ErrSortCancelled)
		case !j.ended: // it waits for its turn; who asked for it need not
			j.settle(ErrSortCancelled)
		}
		if j.file != nil && j.users == 0 { // else the last user closes it
			files = append(files, j.file)
			j.file = nil
		}
	}
	r.mu.Unlock()
	var errs []error
	for _, f := range files {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}

// CancelSort ends the sort that a page's Next speaks of, or forgets its result. One
// that is not there is no error.
func (r *Results) CancelSort(ctx context.Context, key Key, q Query) error {
	v, err := r.viewOf(ctx, key, q)
	if err != nil {
		return err
	}
	name := v.job()
	r.mu.Lock()
	j := r.jobs[name]
	r.mu.Unlock()
	if j == nil {
		return nil
	}
	return r.forget(func(other *sortJob) bool { return other == j })
}

// job names what a query sorts: the query, and how far each segment goes.
func (v *tableView) job() string { return fmt.Sprintf("%08x %s", v.identity(), v.Cursor(0)) }

// sorted fills a page of a sorted table, or says how far the sort is.
func (r *Results) sorted(ctx context.Context, v *tableView, t *Table) error {
	j, err := r.join(v)
	if err != nil {
		return err
	}
	defer r.leave(j)
	t.Next = v.cursor(v.place, v.before)
	wait := time.NewTimer(v.q.Wait)
	defer wait.Stop()
	select {
	case <-j.done:
	case <-wait.C:
		t.Sorting = r.progress(j)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !r.use(j) {
		return cmp.Or(j.err, ErrSortCancelled)
	}
	return v.fill(ctx, r, j, t)
}

// join finds the sort of a query, or queues one.
func (r *Results) join(v *tableView) (*sortJob, error) {
	name := v.job()
	r.mu.Lock()
	defer r.mu.Unlock()
	j := r.jobs[name]
	if j == nil {
		if v.rows*8 > r.o.SortDisk {
			return nil, fmt.Errorf("%d rows: %w", v.rows, ErrTooLarge)
		}
		j = &sortJob{view: v, done: make(chan struct{})}
		select {
		case r.queue <- j:
		default:
			return nil, ErrBusy
		}
		r.jobs[name] = j
	}
	j.asked = time.Now()
	j.users++
	return j, nil
}

func (r *Results) progress(j *sortJob) *Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &Progress{Waiting: !j.running, Rows: j.rows.Load(), Of: j.view.rows}
}

// use reports whether there is a file; it stays until leave.
func (r *Results) use(j *sortJob) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return j.file != nil
}

// leave ends what join began. Who leaves a sort last closes its file if it was
// forgotten.
func (r *Results) leave(j *sortJob) {
	r.mu.Lock()
	j.users--
	var file *tempFile
	if forgotten := j.asked.IsZero(); forgotten && j.users == 0 {
		file, j.file = j.file, nil
	} else if !forgotten {
		j.asked = time.Now()
	}
	r.mu.Unlock()
	r.drop(file)
}

// drop closes a file that nobody needs any more; nil is none.
func (r *Results) drop(file *tempFile) {
	if file == nil {
		return
	}
	if err := file.close(); err != nil {
		r.log.Warn("temporary file of a sort cannot be closed", "err", err)
	}
}

// work runs one sort.
func (r *Results) work(ctx context.Context, j *sortJob) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	over := j.ended
	j.running, j.cancel = true, cancel
	r.mu.Unlock()
	if over {
		return
	}
	begin := time.Now()
	file, err := r.sort(ctx, j)
	if err != nil && ctx.Err() != nil {
		err = ErrSortCancelled
	}
	r.metrics.sorted(time.Since(begin), err)
	r.end(j, file, err)
}

// end settles a sort. What failed is forgotten, so that the next who asks tries anew.
func (r *Results) end(j *sortJob, file *tempFile, err error) {
	r.mu.Lock()
	j.cancel = nil
	j.settle(err)
	if err == nil && (!j.asked.IsZero() || j.users > 0) {
		j.file, file = file, nil
	}
	if err != nil {
		for name, other := range r.jobs {
			if other == j {
				delete(r.jobs, name)
			}
		}
	}
	r.mu.Unlock()
	r.drop(file)
}

// settle tells who waits. The lock is held.
func (j *sortJob) settle(err error) {
	j.ended, j.err = true, err
	close(j.done)
}

// sort looks at all rows that a query takes and orders their places.
func (r *Results) sort(ctx context.Context, j *sortJob) (*tempFile, error) {
	s := newSorter(r.o.Scratch, &r.disk, r.o.SortMemory, j.view.rows, j.view.q.Descending)
	s.makeRoom = func() bool { return r.evict() }
	file, count, told, err := j.collect(ctx, s)
	if closing := s.close(); closing != nil {
		r.log.WarnContext(ctx, "temporary file of a sort cannot be closed", "err", closing)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	j.count = count
	if told != nil {
		j.told = *told
		r.metrics.scanned.Add(float64(told.Bytes))
	}
	return file, err
}

func (j *sortJob) collect(ctx context.Context, s *sorter) (*tempFile, int64, *filestore.Walked, error) {
	v := j.view
	filter, err := ParseFilter(v.q.Filter) // of our own: it has scratch memory
	if err != nil {
		return nil, 0, nil, err
	}
	var count int64
	told, err := v.Walk(ctx, 0, v.take, func(b filestore.Batch) (err error) {
		filter.Each(b.Lines, func(number int64, line []byte) bool {
			count++
			err = s.add(jsonrow.Column(line, v.q.Sort), b.Place+number)
			return err == nil
		})
		j.rows.Add(b.Rows)
		return err
	})
	if err != nil {
		return nil, 0, told, err
	}
	file, err := s.finish(ctx)
	return file, count, told, err
}

// evict drops the sorted table that was not asked for longest, to make room on disk.
func (r *Results) evict() bool {
	r.mu.Lock()
	var oldest *sortJob
	for _, j := range r.jobs {
		if j.file != nil && j.users == 0 && (oldest == nil || j.asked.Before(oldest.asked)) {
			oldest = j
		}
	}
	r.mu.Unlock()
	if oldest == nil {
		return false
	}
	if err := r.forget(func(j *sortJob) bool { return j == oldest }); err != nil {
		r.log.Warn("temporary file of a sort cannot be closed", "err", err)
	}
	return true
}

const placeSize = 8

// fill reads a page of a sorted table.
func (v *tableView) fill(ctx context.Context, r *Results, j *sortJob, t *Table) error {
	t.met(&j.told)
	t.Match, t.From = j.count, min(v.before+v.q.From, j.count)
	rest := make([]byte, min(int64(v.q.Limit), j.count-t.From)*placeSize)
	if _, err := j.file.ReadAt(rest, t.From*placeSize); err != nil && len(rest) > 0 {
		return fmt.Errorf("read sorted places: %w", err)
	}
	next, size := t.From, int64(0)
	for some := int64(16); len(rest) > 0 && size < r.o.PageBytes; {
		chunk := rest[:min(int64(len(rest)), some*placeSize)]
		rows, err := v.rowsAt(ctx, r, chunk, t)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if size >= r.o.PageBytes {
				break
			}
			next++
			if row.Line == nil || !r.shows(v.key, row.Client, row.Flow) {
				continue // told as missing, or deleted since
			}
			t.Rows = append(t.Rows, row)
			size += int64(len(row.Line))
		}
		rest = rest[len(chunk):]
		some = max(16, (r.o.PageBytes-size)/max(1, size/max(1, int64(len(t.Rows))))) // so that long rows do not fill the memory
	}
	if t.Next = ""; next < j.count {
		t.Next = v.cursor(0, next)
	}
	return nil
}

func (v *tableView) rowsAt(ctx context.Context, r *Results, chunk []byte, t *Table) ([]filestore.Row, error) {
	places := make([]int64, 0, len(chunk)/placeSize)
	for at := range slices.Chunk(chunk, placeSize) {
		places = append(places, int64(binary.LittleEndian.Uint64(at)))
	}
	rows, told, err := v.At(ctx, places)
	t.met(&filestore.Walked{Damage: told.Damage}) // rows that are missing were told by the sort
	r.metrics.scanned.Add(float64(told.Bytes))
	return rows, err
}
