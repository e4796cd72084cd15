package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"raptorpack/vql"
)

type logscaleArgs struct {
	Query         vql.Query `vql:"query,required" doc:"The rows to send."`
	APIBaseURL    string    `vql:"apibaseurl,required" doc:"The URL of the API, as https://cloud.humio.com/api."`
	IngestToken   string    `vql:"ingest_token,required" doc:"The ingest token."`
	Threads       int64     `vql:"threads" doc:"How many posts run at the same time (1)."`
	HTTPTimeout   int64     `vql:"http_timeout" doc:"Seconds for one attempt (10)."`
	MaxRetries    *int64    `vql:"max_retries" doc:"Further attempts after a failure (18, which is some ten minutes); negative: as long as the query runs."`
	RootCA        string    `vql:"root_ca" doc:"Certificates in PEM to trust too."`
	SkipVerify    bool      `vql:"skip_verify" doc:"Accept any certificate."`
	BatchMillis   int64     `vql:"batching_timeout_ms" doc:"Milliseconds after which a batch goes though it is not full (3000)."`
	BatchSize     int64     `vql:"event_batch_size" doc:"Rows in a post (2000)."`
	TagFields     []string  `vql:"tag_fields" doc:"Columns that become tags; COLUMN=TAG renames."`
	StatsInterval int64     `vql:"stats_interval" doc:"Seconds between log lines that tell how many rows went (none)."`
	Debug         bool      `vql:"debug" doc:"Log each post."`
}

// logscaleBatchBytes stays below the 5 MB that LogScale recommends for one request.
const logscaleBatchBytes = 4 << 20

var errTagField = errors.New("a tag field should be COLUMN or COLUMN=TAG")

var logscaleUploadPlugin = vql.NewPlugin(vql.Spec{
	Name: "logscale_upload", Permission: "NETWORK", Columns: []string{"Rows", "StatusCode", "Response"},
	Doc: "Sends rows to LogScale (Humio) as structured events; the column _ts or timestamp gives their time. Each post gives a row; rows that could " +
		"not be delivered are told of there and in the log. A row may arrive twice when an answer is lost.",
}, func(ctx context.Context, scope *vql.Scope, args *logscaleArgs, emit vql.Emit) error {
	target, err := newLogscale(scope, args)
	if err != nil {
		return err
	}
	defer target.out.close()
	retries := int64(defaultForwardRetries)
	if args.MaxRetries != nil {
		retries = *args.MaxRetries
	}
	return forward(ctx, scope, forwardOptions{
		name: "logscale_upload", threads: args.Threads, batchRows: orDefault(args.BatchSize, 2000),
		batchBytes: logscaleBatchBytes, wait: time.Duration(min(orDefault(args.BatchMillis, 3000), 1<<31)) * time.Millisecond,
		retries: retries, pause: target.out.pauses(time.Second), stats: secondsOf(args.StatsInterval),
	}, target, args.Query, emit)
})

// logscale posts to the API for structured events.
type logscale struct {
	args  *logscaleArgs
	scope *vql.Scope
	out   *outbound
	url   string
	tags  []logscaleTag
}

type logscaleTag struct{ column, name string }

func newLogscale(scope *vql.Scope, args *logscaleArgs) (*logscale, error) {
	target, err := webURL(args.APIBaseURL)
	if err != nil {
		return nil, err
	}
	l := &logscale{args: args, scope: scope, url: target.JoinPath("v1/ingest/humio-structured").String()}
	for _, field := range args.TagFields {
		column, name, renamed := strings.Cut(field, "=")
		if !renamed {
			name = column
		}
		if column == "" || name == "" {
			return nil, fmt.Errorf("%w, not %q", errTagField, field)
		}
		l.tags = append(l.tags, logscaleTag{column, name})
	}
	timeout := secondsOf(orDefault(args.HTTPTimeout, 10))
	l.out, err = newOutbound(scope, outboundOptions{skipVerify: args.SkipVerify, rootCA: args.RootCA, timeout: timeout})
	return l, err
}

// encode makes a row an element of the request's array: its tags and one event.
func (l *logscale) encode(ctx context.Context, scope *vql.Scope, row *vql.Dict) ([]byte, error) {
	tags, event, element := vql.NewDict(), vql.NewDict(), vql.NewDict()
	for _, tag := range l.tags {
		if v, ok := row.Get(tag.column); ok && !vql.IsNull(v) {
			tags.Set(tag.name, scope.String(ctx, v))
		}
	}
	event.Set("timestamp", eventTime(scope, row).UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	event.Set("attributes", row)
	if tags.Len() > 0 {
		element.Set("tags", tags)
	}
	element.Set("events", []vql.Value{event})
	return scope.AppendJSON(nil, element), nil
}

// eventTime is when a row's event happened; now for rows that do not tell.
func eventTime(scope *vql.Scope, row *vql.Dict) time.Time {
	for _, column := range [...]string{"_ts", "timestamp"} {
		if v, ok := row.Get(column); ok && !vql.IsNull(v) {
			if at, ok := scope.Time(v); ok {
				return at
			}
		}
	}
	return time.Now()
}

func (l *logscale) post(ctx context.Context, rows [][]byte) forwardAnswer {
	var body bytes.Buffer
	body.WriteByte('[')
	body.Write(bytes.Join(rows, []byte{','}))
	body.WriteByte(']')
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, &body)
	if err != nil {
		return answerFor(nil, err, rows)
	}
	request.Header.Set("Authorization", "Bearer "+l.args.IngestToken)
	request.Header.Set("Content-Type", "application/json")
	size := body.Len()
	r, err := l.out.do(request)
	a := answerFor(r, err, rows)
	if l.args.Debug {
		l.scope.Log(vql.LevelDebug, "logscale_upload: %d rows, %d bytes: status %d %s", len(rows), size, a.status, a.reason)
	}
	return a
}

func (l *logscale) row(o *forwardOutcome) *vql.Dict {
	row := vql.NewDict()
	row.Set("Rows", int64(o.rows-o.lost))
	row.Set("StatusCode", int64(o.status))
	row.Set("Response", o.response())
	return row
}
