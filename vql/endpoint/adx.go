package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"raptorpack/vql"
)

type adxArgs struct {
	Query        vql.Query `vql:"query,required" doc:"The rows to send."`
	Threads      int64     `vql:"threads" doc:"How many posts run at the same time (1)."`
	ClusterURL   string    `vql:"cluster_url" doc:"The cluster, as https://NAME.REGION.kusto.windows.net."`
	Database     string    `vql:"database" doc:"The database."`
	Table        string    `vql:"table" doc:"The table; columns of rows go to its columns of the same name."`
	ClientID     string    `vql:"client_id" doc:"The application's id."`
	ClientSecret string    `vql:"client_secret" doc:"The application's secret."`
	TenantID     string    `vql:"tenant_id" doc:"The directory that the application is in."`
	ChunkSize    int64     `vql:"chunk_size" doc:"Rows in a post (1000)."`
	WaitTime     int64     `vql:"wait_time" doc:"Seconds after which a batch goes though it is not full (5)."`
	MaxBuffer    int64     `vql:"max_memory_buffer" doc:"Bytes of rows to hold while the target is away (32 MiB); then the query waits."`
	Secret       string    `vql:"secret" doc:"A named secret; this build has none."`
}

// adxBatchBytes is below the 4 MB that a streaming ingest may have.
const adxBatchBytes = 4_000_000

var errADXTarget = errors.New("cluster_url, database, table, client_id, client_secret and tenant_id are needed")

var adxUploadPlugin = vql.NewPlugin(vql.Spec{
	Name: "adx_upload", Permission: "NETWORK", Columns: []string{"Rows", "Bytes", "DurationMs", "FlushReason", "Status", "Response"},
	Doc: "Sends rows to a table of Azure Data Explorer by streaming ingestion, which the cluster and the table must allow. Each post gives a row; " +
		"rows that could not be delivered are told of there and in the log. A row may arrive twice when an answer is lost.",
}, func(ctx context.Context, scope *vql.Scope, args *adxArgs, emit vql.Emit) error {
	target, err := newADX(scope, args)
	if err != nil {
		return err
	}
	defer target.out.close()
	return forward(ctx, scope, forwardOptions{
		name: "adx_upload", threads: args.Threads, batchRows: orDefault(args.ChunkSize, 1000),
		batchBytes: adxBatchBytes, buffer: args.MaxBuffer, wait: secondsOf(orDefault(args.WaitTime, 5)),
		retries: defaultForwardRetries, pause: target.out.pauses(time.Second),
	}, target, args.Query, emit)
})

// adx posts to the streaming ingest of a cluster.
type adx struct {
	args     *adxArgs
	out      *outbound
	url      string
	login    string
	resource string
	token    atomic.Pointer[bearerToken] // nil before the first, and after one was refused
}

func newADX(scope *vql.Scope, args *adxArgs) (*adx, error) {
	if args.Secret != "" {
		return nil, errSecrets
	}
	for _, given := range []string{args.ClusterURL, args.Database, args.Table, args.ClientID, args.ClientSecret, args.TenantID} {
		if given == "" {
			return nil, errADXTarget
		}
	}
	cluster, err := webURL(args.ClusterURL)
	if err != nil {
		return nil, err
	}
	cluster.Host = strings.TrimPrefix(cluster.Host, "ingest-") // the address of queued ingestion
	out, err := newOutbound(scope, outboundOptions{})
	if err != nil {
		return nil, err
	}
	ingest := url.URL{Scheme: cluster.Scheme, Host: cluster.Host, RawQuery: "streamFormat=JSON"}
	return &adx{
		args: args, out: out, url: ingest.JoinPath("v1/rest/ingest", url.PathEscape(args.Database), url.PathEscape(args.Table)).String(),
		login:    loginFor(cluster.Hostname()) + "/" + url.PathEscape(args.TenantID) + "/oauth2/v2.0/token",
		resource: cluster.Scheme + "://" + cluster.Host,
	}, nil
}

// loginFor is where applications sign in, by the cloud that the cluster is in.
func loginFor(host string) string {
	switch {
	case strings.HasSuffix(host, ".usgovcloudapi.net"):
		return "https://login.microsoftonline.us"
	case strings.HasSuffix(host, ".chinacloudapi.cn"):
		return "https://login.chinacloudapi.cn"
	}
	return "https://login.microsoftonline.com"
}

// encode writes a row as a line of JSON. The keys go to the columns of their names.
func (a *adx) encode(_ context.Context, scope *vql.Scope, row *vql.Dict) ([]byte, error) {
	return append(scope.AppendJSON(nil, row), '\n'), nil
}

func (a *adx) post(ctx context.Context, rows [][]byte) forwardAnswer {
	token, err := a.signIn(ctx)
	if err != nil {
		return answerFor(nil, fmt.Errorf("sign in: %w", err), rows)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url, bytes.NewReader(bytes.Join(rows, nil)))
	if err != nil {
		return answerFor(nil, err, rows)
	}
	request.Header.Set("Authorization", "Bearer "+token.text)
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set("Accept", "application/json")
	r, err := a.out.do(request)
	answer := answerFor(r, err, rows)
	if answer.status == http.StatusUnauthorized {
		a.token.CompareAndSwap(token, nil)
		if time.Since(token.asked) > time.Minute { // it may have ended early: another one decides
			answer.again, answer.refused = rows, 0
		}
	}
	return answer
}

// signIn gives the token that is held, or asks for one. Threads that need one at the
// same time each ask.
func (a *adx) signIn(ctx context.Context) (*bearerToken, error) {
	if t := a.token.Load(); t != nil && time.Now().Before(t.ends) {
		return t, nil
	}
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {a.args.ClientID},
		"client_secret": {a.args.ClientSecret}, "scope": {a.resource + "/.default"},
	}
	t, err := a.out.token(ctx, a.login, form)
	if err != nil {
		return nil, err
	}
	a.token.Store(t)
	return t, nil
}

func (a *adx) row(o *forwardOutcome) *vql.Dict {
	row := vql.NewDict()
	row.Set("Rows", int64(o.rows-o.lost))
	row.Set("Bytes", o.bytes)
	row.Set("DurationMs", o.took.Milliseconds())
	row.Set("FlushReason", o.flush)
	row.Set("Status", int64(o.status))
	row.Set("Response", o.response())
	return row
}
