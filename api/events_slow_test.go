package api

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/filestore"
)

// stuck is an answer that nobody reads: writing ends with the deadline.
type stuck struct {
	http.ResponseWriter
	deadlines []time.Time
}

func (s *stuck) SetWriteDeadline(at time.Time) error {
	s.deadlines = append(s.deadlines, at)
	return nil
}
func (s *stuck) Flush() {}

func (s *stuck) Write(p []byte) (int, error) {
	if s.deadlines[len(s.deadlines)-1].IsZero() {
		return 0, errors.New("nobody bounds the time of writing")
	}
	return len(p) / 2, os.ErrDeadlineExceeded
}

func TestSlowReaderIsDisconnectedAndCounted(t *testing.T) {
	w := &stuck{}
	registry := prometheus.NewRegistry()
	stream := &tailStream{s: &Server{metrics: newMetrics(registry)}, w: w, out: http.NewResponseController(w)}
	err := stream.page(&filestore.TailPage{Place: "P", Rows: []filestore.Row{{Line: []byte("{}")}}})
	if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "too slow") {
		t.Errorf("error %v", err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if n := f.GetMetric()[0].GetCounter().GetValue(); f.GetName() == "raptorpack_api_slow_tails_total" && n != 1 {
			t.Errorf("counted %v times", n)
		}
	}
}
