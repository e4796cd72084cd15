package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// rowQuery makes rows like those of a listing of files: long, and much alike.
const rowQuery = `SELECT _value AS Number,
        format(format='/var/lib/application/data/shard-007/segment-%%08d.log', args=[_value]) AS OSPath,
        4096 + 512 * _value AS Size, '-rw-r-----' AS Mode, 'application' AS User, 'application' AS Group, FALSE AS IsDir,
        timestamp(epoch=1760000000 + _value) AS Mtime, timestamp(epoch=1760000000 + _value) AS Ctime,
        'ext4 on /dev/mapper/data-lv0, mounted at /var/lib/application with relatime,errors=remount-ro' AS Mount,
        'the quick brown fox jumps over the lazy dog and then over the next one until the row has its length' AS Note
      FROM range(start=0, end=%d, step=1)`

// oneClient starts a server with one agent.
func (b *bench) oneClient(ctx context.Context, name string, bulk map[string]int64) (*server, *agents, string, error) {
	s, err := b.start(ctx, name, false)
	if err != nil {
		return nil, nil, "", err
	}
	a, err := b.agents(ctx, s, herd{count: 1, bulk: bulk}, b.ramp)
	if err != nil {
		return nil, nil, "", err
	}
	if err := a.enrolled(ctx, s); err != nil {
		return nil, nil, "", err
	}
	names, err := b.ids(1)
	if err != nil {
		return nil, nil, "", err
	}
	return s, a, names[0], nil
}

// manyRows collects many rows from one client, several times.
func (b *bench) manyRows(ctx context.Context) error {
	s, a, client, err := b.oneClient(ctx, "rows", nil)
	if err != nil {
		return err
	}
	if err := s.door.artifact(ctx, "Custom.Bench.Rows", fmt.Sprintf(rowQuery, b.rows)); err != nil {
		return err
	}
	profiled := s.profile(ctx, "rows")
	var costs, sizes []float64
	var last flow
	for range b.repeats {
		if err := s.quiet(ctx); err != nil {
			return err
		}
		before, err := s.usage(ctx)
		if err != nil {
			return err
		}
		id, err := s.door.collect(ctx, client, "Custom.Bench.Rows")
		if err != nil {
			return err
		}
		if last, err = s.door.ended(ctx, client, id); err != nil {
			return err
		}
		after, err := s.usage(ctx)
		if err != nil {
			return err
		}
		bytes, files, err := s.stored(last.Folder)
		if err != nil {
			return err
		}
		costs = append(costs, (after.cpu - before.cpu).Seconds())
		sizes = append(sizes, float64(bytes)/1e6)
		b.note("rows: %d rows, %v CPU, %.1f s, %d bytes in %d files", last.Rows, after.cpu-before.cpu, after.at.Sub(before.at).Seconds(), bytes, files)
	}
	samples := fmt.Sprintf("median of %d runs, %d rows each", b.repeats, last.Rows)
	cost := figure{what: "server CPU of the rows", aim: 0.15, unit: "CPU s", measured: median(costs), samples: samples}
	b.add(cost)
	b.add(figure{what: "stored", aim: 2, unit: "MB", measured: median(sizes), samples: samples})
	if err := profiled.end(ctx, cost.misses()); err != nil {
		return err
	}
	return endBoth(a, s)
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// largeUpload takes one file that does not compress from one client.
func (b *bench) largeUpload(ctx context.Context) error {
	size := b.uploadMB << 20
	s, a, client, err := b.oneClient(ctx, "upload", map[string]int64{"noise.bin": size})
	if err != nil {
		return err
	}
	if err := s.door.artifact(ctx, "Custom.Bench.Upload", strings.TrimSpace(`SELECT upload(file='/srv/bulk/noise.bin') AS Upload FROM scope()`)); err != nil {
		return err
	}
	before, err := s.usage(ctx)
	if err != nil {
		return err
	}
	profiled := s.profile(ctx, "upload")
	highest := s.highest(ctx)
	id, err := s.door.collect(ctx, client, "Custom.Bench.Upload")
	if err != nil {
		return err
	}
	f, err := s.door.ended(ctx, client, id)
	if err != nil {
		return err
	}
	after, err := s.usage(ctx)
	if err != nil {
		return err
	}
	peak := highest()
	if f.Bytes != size {
		return fmt.Errorf("uploaded %d of %d bytes", f.Bytes, size)
	}
	samples := fmt.Sprintf("1 file of %d MiB, %.1f s", b.uploadMB, after.at.Sub(before.at).Seconds())
	cost := figure{what: "server CPU of uploads", aim: 4, unit: "CPU s/GB", measured: (after.cpu - before.cpu).Seconds() / float64(size) * 1e9, samples: samples}
	b.add(cost)
	b.add(figure{what: "  memory above the start while it came, at most", unit: "MiB", measured: float64(peak-before.rss) / (1 << 20), samples: samples})
	if err := profiled.end(ctx, cost.misses()); err != nil {
		return err
	}
	return endBoth(a, s)
}

// highest watches the server's memory until the returned function is called.
func (s *server) highest(ctx context.Context) (stop func() int64) {
	ctx, cancel := context.WithCancel(ctx)
	out := make(chan int64, 1) // one value
	go func() {
		var most int64
		watch := time.NewTicker(100 * time.Millisecond)
		defer watch.Stop()
		for {
			if now, err := s.rss(); err == nil {
				most = max(most, now)
			}
			select {
			case <-ctx.Done():
				out <- most
				return
			case <-watch.C:
			}
		}
	}()
	return func() int64 { cancel(); return <-out }
}
