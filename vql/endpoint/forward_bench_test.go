package endpoint_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"raptorpack/vql"
)

// BenchmarkElasticUpload posts rows of some 150 bytes to a target that takes them at
// once: what the query, the encoding and the batching cost.
func BenchmarkElasticUpload(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			fmt.Fprint(w, `{"errors":false}`)
		}
	}))
	defer server.Close()
	s := newSession(b, map[string]any{"U": server.URL, "End": int64(b.N)}, quick())
	query := `SELECT * FROM elastic_upload(addresses=U, index='i', query={
	   SELECT _value AS N, 'C.1234567890abcdef' AS ClientId, '/usr/lib/systemd/systemd-journald' AS Exe, 'some text of a usual length' AS Text, 1700000000 + _value AS Time
	   FROM range(end=End)})`
	b.ReportAllocs()
	b.ResetTimer()
	posts := 0
	if err := s.each(b.Context(), query, func(*vql.Dict) error { posts++; return nil }); err != nil {
		b.Fatal(err)
	}
	if posts != (b.N+999)/1000 {
		b.Fatalf("%d posts for %d rows", posts, b.N)
	}
}
