package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"raptorpack/pool"
)

const (
	bulkArtifact   = "Custom.Bench.Bulk"
	uploadArtifact = "Custom.Bench.BulkUpload"
)

// bulk hunts for many rows and for uploads.
func (r *packRun) bulk(ctx context.Context) error {
	if err := r.standing(ctx); err != nil {
		return err
	}
	some, err := r.ids(r.bulkers)
	if err != nil {
		return err
	}
	if err := r.door().artifact(ctx, bulkArtifact, fmt.Sprintf(rowQuery, r.bulkRows)); err != nil {
		return err
	}
	if err := r.door().artifact(ctx, uploadArtifact, `SELECT upload(file='/srv/bulk/noise.bin') AS Upload FROM scope()`); err != nil {
		return err
	}
	h, cost, err := r.loaded(ctx, "bulk-rows", bulkArtifact, some)
	if err != nil {
		return err
	}
	if err := r.recount(ctx, h, bulkArtifact, r.bulkers, r.bulkRows); err != nil {
		return err
	}
	rows := float64(r.bulkers * r.bulkRows)
	samples := fmt.Sprintf("%d clients, %d rows each", r.bulkers, r.bulkRows)
	r.add(figure{what: "rows of a hunt", more: true, unit: "1/s", measured: rows / h.took.Seconds(), samples: samples})
	r.add(figure{what: "  server CPU, all nodes", aim: 1.5, unit: "CPU s a million", measured: cost / rows * 1e6, samples: samples})

	if h, cost, err = r.loaded(ctx, "bulk-uploads", uploadArtifact, some); err != nil {
		return err
	}
	size := r.bulkUpload << 20
	stored, err := r.uploaded("noise.bin", size)
	if err != nil {
		return err
	}
	if h.last.Bytes != int64(r.bulkers)*size || h.last.Uploads != int64(r.bulkers) || stored != r.bulkers {
		return fmt.Errorf("%w: %d whole uploads of %d are stored; %+v", errCount, stored, r.bulkers, h.last)
	}
	all := float64(r.bulkers) * float64(size)
	samples = fmt.Sprintf("%d clients, %d MiB each", r.bulkers, r.bulkUpload)
	r.add(figure{what: "uploads of a hunt", more: true, unit: "MB/s", measured: all / 1e6 / h.took.Seconds(), samples: samples})
	r.add(figure{what: "  server CPU, all nodes", aim: 4, unit: "CPU s/GB", measured: cost / all * 1e9, samples: samples})
	return nil
}

// loaded runs a hunt on some clients and gives the nodes' processor time in seconds.
func (r *packRun) loaded(ctx context.Context, name, artifact string, clients []string) (hunted, float64, error) {
	if err := r.settle(ctx); err != nil {
		return hunted{}, 0, err
	}
	before, err := r.cpu()
	if err != nil {
		return hunted{}, 0, err
	}
	w, begun := r.watch(ctx), time.Now()
	var h hunted
	id, err := r.door().startHunt(ctx, artifact, clients...)
	if err == nil {
		h, err = r.follow(ctx, w, id, len(clients), begun, 10*time.Minute, nil)
	}
	after, wrong := r.cpu()
	return h, after - before, errors.Join(err, wrong, w.end(name))
}

// churning hunts over clients that come and go and of which some are slow or misbehave.
func (r *packRun) churning(ctx context.Context) error {
	return r.alone(ctx, "churn", r.clients, false, func(h *herd) {
		h.churn = pool.Churn{Offline: 0.3, Wave: r.wave}
		h.manners = pool.Manners{Slow: 0.03, Cut: 0.02, Resend: 0.02, Garbage: 0.02, Forge: 0.02}
	}, func(h hunted, samples string) {
		r.add(figure{what: "hunt over clients that come and go, slow and wrong ones among them, to the last", unit: "s", measured: h.took.Seconds(), samples: samples})
	})
}

// waves hunts over clients that were there before, of which a tenth is online at a
// time.
func (r *packRun) waves(ctx context.Context) error {
	return r.alone(ctx, "waves", r.waving, true, func(h *herd) { h.churn = pool.Churn{Offline: 0.9, Wave: r.wave} }, func(h hunted, samples string) {
		r.add(figure{what: "hunt over clients of which 90 % are away, memory of the master at most", aim: 300, unit: "MB", measured: float64(h.maximum) / 1e6, samples: samples})
		r.add(figure{what: "  to the last", unit: "s", measured: h.took.Seconds(), samples: samples})
	})
}

// alone runs a pack of its own with clients that edit makes, and one hunt over all of
// them: it begins before the first client comes, and each joins that is known and comes
// or enrols.
func (r *packRun) alone(ctx context.Context, name string, clients int, known bool, edit func(*herd), tell func(h hunted, samples string)) error {
	if err := r.end(); err != nil {
		return err
	}
	w, err := r.raise(ctx, name, clients, known, edit)
	if err != nil {
		return err
	}
	begun := time.Now()
	h, err := r.recruit(ctx, w, clients, begun)
	if err = errors.Join(err, w.end(name)); err != nil {
		return err
	}
	stats := r.stats()
	tell(h, fmt.Sprintf("%d clients, waves of %v; %d connections cut, %d batches sent again, %d garbage, %d forged",
		clients, r.wave, stats.Cut, stats.Resent, stats.Garbage, stats.Forged))
	if err := r.recount(ctx, h, oneRowArtifact, clients, 1); err != nil {
		return err
	}
	return r.end()
}

func (r *packRun) recruit(ctx context.Context, w *watch, clients int, begun time.Time) (hunted, error) {
	if err := r.door().artifact(ctx, oneRowArtifact, "SELECT Hostname, OS FROM info()"); err != nil {
		return hunted{}, err
	}
	id, err := r.door().startHunt(ctx, oneRowArtifact)
	if err != nil {
		return hunted{}, err
	}
	told := time.Now()
	return r.follow(ctx, w, id, clients, begun, time.Hour, func(h hunt) error {
		if time.Since(told) > 20*time.Second {
			told = time.Now()
			r.note("%v, %+v, load average %s", h.Clients, r.stats().Status, loadAverage())
		}
		return nil
	})
}
