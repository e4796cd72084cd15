package endpoint_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"raptorpack/vql"
)

// s3Session is a session whose S3_CREDENTIALS name a fake.
func s3Session(t testing.TB, server *fakeS3, env map[string]any) *session {
	t.Helper()
	credentials := vql.NewDict()
	credentials.Set("endpoint", server.URL)
	credentials.Set("credentials_key", "key")
	credentials.Set("credentials_secret", "hush")
	all := map[string]any{"S3_CREDENTIALS": credentials}
	for k, v := range env {
		all[k] = v
	}
	return newSession(t, all, quick())
}

func TestS3AccessorListsAndReads(t *testing.T) {
	server := newFakeS3(t, status(503))
	server.page = 2
	for _, key := range []string{"top", "logs/a b&c.log", "logs/2024/x.log", "logs/2024/y.log", "logs/z.log", "logs/"} {
		server.objects[key] = []byte("content of " + key)
	}
	s := s3Session(t, server, nil)
	s.want(`SELECT Name, IsDir, Mtime FROM glob(globs='/*', accessor='s3')`, `{"Name":"b","IsDir":true,"Mtime":"2024-01-02T03:04:05Z"}`)
	s.want(`SELECT OSPath, Size, Mtime, Data.ETag AS ETag FROM glob(globs='/b/logs/*.log', accessor='s3')`,
		`{"OSPath":"/b/logs/a b&c.log","Size":25,"Mtime":"2024-01-02T03:04:05Z","ETag":`+etag([]byte("content of logs/a b&c.log"))+`}`,
		`{"OSPath":"/b/logs/z.log","Size":21,"Mtime":"2024-01-02T03:04:05Z","ETag":`+etag([]byte("content of logs/z.log"))+`}`)
	s.want(`SELECT OSPath.Basename AS B, read_file(filename=OSPath, accessor='s3') AS D FROM glob(globs='/b/**/*.log', accessor='s3') WHERE OSPath =~ '2024'`,
		`{"B":"x.log","D":"content of logs/2024/x.log"}`, `{"B":"y.log","D":"content of logs/2024/y.log"}`)
	s.want(`SELECT read_file(filename='/b/logs/a b&c.log', accessor='s3', offset=11, length=4) AS D FROM scope()`, `{"D":"logs"}`)
	s.want(`SELECT stat(filename='/b/logs', accessor='s3').IsDir AS Folder, stat(filename='/b/top', accessor='s3').Size AS Size,
	   stat(filename='/b', accessor='s3').IsDir AS Bucket, stat(filename='/b/none', accessor='s3') AS None, stat(filename='/other', accessor='s3') AS Other FROM scope()`,
		`{"Folder":true,"Size":14,"Bucket":true,"None":null,"Other":null}`)
	s.want(`SELECT read_file(filename='/b/none', accessor='s3') AS D, read_file(filename='/b', accessor='s3') AS B FROM scope()`, `{"D":"","B":""}`)
	s.wantLog("404")
}

func TestS3AccessorReadsByRanges(t *testing.T) {
	content := pattern(3 << 20)
	server := newFakeS3(t, nil, nil, reset)
	server.objects["large"] = []byte(content)
	s := s3Session(t, server, nil)
	s.want(`SELECT hash(path='/b/large', accessor='s3', hashselect='SHA256').SHA256 AS H FROM scope()`, `{"H":"`+sha([]byte(content))+`"}`)
	// A head, reads of 256 and 512 KiB, 1 MiB and what is left, and the one that broke.
	if server.requests != 6 {
		t.Errorf("%d requests", server.requests)
	}
	tail := s3Session(t, server, map[string]any{"Want": content[2000000:2000005]})
	tail.want(`SELECT read_file(filename='/b/large', accessor='s3', offset=2000000, length=5) = Want AS Same FROM scope()`, `{"Same":true}`)
}

func TestS3AccessorTellsOfChangesAndBadCredentials(t *testing.T) {
	server := newFakeS3(t)
	server.objects["f"] = []byte(pattern(1 << 20))
	server.faults = []func(http.ResponseWriter){nil, nil, func(w http.ResponseWriter) {
		server.objects["f"] = []byte(strings.Repeat("x", 1<<20)) // between two reads
		status(503)(w)
	}}
	s := s3Session(t, server, nil)
	s.want(`SELECT hash(path='/b/f', accessor='s3') AS H FROM scope()`, `{"H":null}`)
	s.wantLog("the object changed while it was read")
	bad := newSession(t, map[string]any{"S3_CREDENTIALS": "text"}, quick())
	bad.want(`SELECT read_file(filename='/b/f', accessor='s3') AS D FROM scope()`, `{"D":""}`)
	bad.wantLog("S3_CREDENTIALS should be a dict")
	garbage := newTarget(t, func(_ *target, w http.ResponseWriter, _ *http.Request, _ []byte) {
		fmt.Fprint(w, "<ListBucketResult><IsTruncated>true")
	})
	d := vql.NewDict()
	d.Set("endpoint", garbage.URL)
	broken := newSession(t, map[string]any{"S3_CREDENTIALS": d}, quick())
	broken.want(`SELECT * FROM glob(globs='/b/*', accessor='s3')`)
	broken.wantLog("read listing of b")
}
