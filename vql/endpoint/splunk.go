package endpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"raptorpack/vql"
)

type splunkArgs struct {
	Query          vql.Query `vql:"query,required" doc:"The rows to send."`
	Threads        int64     `vql:"threads" doc:"How many posts run at the same time (1)."`
	URL            string    `vql:"url" doc:"The URL of the HTTP event collector; without a path its usual one is added."`
	Token          string    `vql:"token" doc:"The collector's token."`
	Index          string    `vql:"index" doc:"The index (the token's)."`
	Source         string    `vql:"source" doc:"The source to give events (the token's)."`
	Sourcetype     string    `vql:"sourcetype" doc:"The source type to give events (the token's)."`
	ChunkSize      int64     `vql:"chunk_size" doc:"Rows in a post (1000)."`
	SkipVerify     bool      `vql:"skip_verify" doc:"Accept any certificate."`
	RootCA         string    `vql:"root_ca" doc:"Certificates in PEM to trust too."`
	WaitTime       int64     `vql:"wait_time" doc:"Seconds after which a batch goes though it is not full (2)."`
	Hostname       string    `vql:"hostname" doc:"The host to give events."`
	TimestampField string    `vql:"timestamp_field" doc:"The column with the time of the event (now)."`
	HostnameField  string    `vql:"hostname_field" doc:"The column with the host of the event, before hostname."`
	Secret         string    `vql:"secret" doc:"A named secret; this build has none."`
	MaxRetries     *int64    `vql:"max_retries" doc:"Further attempts after a failure (3); negative: as long as the query runs."`
	RetryWait      int64     `vql:"retry_wait" doc:"Seconds before the second attempt (1); it doubles from there."`
	IdleTimeout    int64     `vql:"idle_conn_timeout" doc:"Seconds for which an unused connection is kept (90)."`
}

// splunkBatchBytes stays below the 1 MB that Splunk recommends for one request.
const splunkBatchBytes = 900 << 10

var errSplunkTarget = errors.New("url and token are needed")

var splunkUploadPlugin = vql.NewPlugin(vql.Spec{
	Name: "splunk_upload", Permission: "NETWORK", Columns: []string{"Response"},
	Doc: "Sends rows to Splunk's HTTP event collector. Each post gives a row; rows that could not be delivered are told of there and in the log. " +
		"A row may arrive twice when an answer is lost.",
}, func(ctx context.Context, scope *vql.Scope, args *splunkArgs, emit vql.Emit) error {
	target, err := newSplunk(scope, args)
	if err != nil {
		return err
	}
	defer target.out.close()
	retries := int64(3)
	if args.MaxRetries != nil {
		retries = *args.MaxRetries
	}
	return forward(ctx, scope, forwardOptions{
		name: "splunk_upload", threads: args.Threads, batchRows: orDefault(args.ChunkSize, 1000),
		batchBytes: splunkBatchBytes, wait: secondsOf(orDefault(args.WaitTime, 2)),
		retries: retries, pause: target.out.pauses(secondsOf(orDefault(args.RetryWait, 1))),
	}, target, args.Query, emit)
})

// splunk posts to the HTTP event collector.
type splunk struct {
	args *splunkArgs
	out  *outbound
	url  string
}

func newSplunk(scope *vql.Scope, args *splunkArgs) (*splunk, error) {
	if args.Secret != "" {
		return nil, errSecrets
	}
	if args.URL == "" || args.Token == "" {
		return nil, errSplunkTarget
	}
	target, err := webURL(args.URL)
	if err != nil {
		return nil, err
	}
	if target.Path == "" || target.Path == "/" {
		target.Path = "/services/collector/event"
	}
	out, err := newOutbound(scope, outboundOptions{skipVerify: args.SkipVerify, rootCA: args.RootCA, idle: secondsOf(args.IdleTimeout)})
	return &splunk{args: args, out: out, url: target.String()}, err
}

// encode wraps a row as an event. Time is in seconds since 1970, with milliseconds.
func (s *splunk) encode(ctx context.Context, scope *vql.Scope, row *vql.Dict) ([]byte, error) {
	event := vql.NewDict()
	if v, ok := row.Get(s.args.TimestampField); ok && s.args.TimestampField != "" {
		if at, ok := scope.Time(v); ok {
			event.Set("time", json.Number(fmt.Sprintf("%.3f", float64(at.UnixMilli())/1000)))
		}
	}
	host := s.args.Hostname
	if v, ok := row.Get(s.args.HostnameField); ok && s.args.HostnameField != "" && !vql.IsNull(v) {
		host = scope.String(ctx, v)
	}
	for _, f := range [...]struct{ key, value string }{
		{"host", host}, {"source", s.args.Source}, {"sourcetype", s.args.Sourcetype}, {"index", s.args.Index},
	} {
		if f.value != "" {
			event.Set(f.key, f.value)
		}
	}
	event.Set("event", row)
	return append(scope.AppendJSON(nil, event), '\n'), nil
}

func (s *splunk) post(ctx context.Context, rows [][]byte) forwardAnswer {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(bytes.Join(rows, nil)))
	if err != nil {
		return answerFor(nil, err, rows)
	}
	request.Header.Set("Authorization", "Splunk "+s.args.Token)
	request.Header.Set("Content-Type", "application/json")
	r, err := s.out.do(request)
	return answerFor(r, err, rows)
}

func (s *splunk) row(o *forwardOutcome) *vql.Dict {
	row := vql.NewDict()
	row.Set("Response", o.response())
	return row
}
