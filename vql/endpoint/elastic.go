package endpoint

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"raptorpack/vql"
)

type elasticArgs struct {
	Query      vql.Query `vql:"query,required" doc:"The rows to send."`
	Threads    int64     `vql:"threads" doc:"How many posts run at the same time (1)."`
	Index      string    `vql:"index" doc:"The index, for rows without a column _index."`
	Type       string    `vql:"type" doc:"The document type, for targets older than version 7."`
	ChunkSize  int64     `vql:"chunk_size" doc:"Rows in a post (1000)."`
	Addresses  []string  `vql:"addresses" doc:"URLs of nodes; when one fails the next is asked."`
	Username   string    `vql:"username" doc:"The user of basic authentication."`
	Password   string    `vql:"password" doc:"The user's password."`
	CloudID    string    `vql:"cloud_id" doc:"The deployment in Elastic Cloud, instead of addresses."`
	APIKey     string    `vql:"api_key" doc:"An API key in its encoded form, instead of a user."`
	WaitTime   int64     `vql:"wait_time" doc:"Seconds after which a batch goes though it is not full (2)."`
	Pipeline   string    `vql:"pipeline" doc:"The ingest pipeline."`
	DisableSSL bool      `vql:"disable_ssl_security" doc:"Accept any certificate."`
	SkipVerify bool      `vql:"skip_verify" doc:"Accept any certificate."`
	RootCA     string    `vql:"root_ca" doc:"Certificates in PEM to trust too."`
	MaxBuffer  int64     `vql:"max_memory_buffer" doc:"Bytes of rows to hold while the target is away (32 MiB); then the query waits."`
	Action     string    `vql:"action" doc:"index or create (index)."`
	Secret     string    `vql:"secret" doc:"A named secret; this build has none."`
}

// elasticBatchBytes stays well below the 100 MB that nodes take by default.
const elasticBatchBytes = 5 << 20

var (
	errElasticTarget = errors.New("addresses or cloud_id is needed")
	errElasticAction = errors.New("action should be index or create")
	errElasticIndex  = errors.New("no index: give index, or rows with a column _index")
	errCloudID       = errors.New("cloud_id should be NAME:BASE64 of HOST$ID")
)

var elasticUploadPlugin = vql.NewPlugin(vql.Spec{
	Name: "elastic_upload", Permission: "NETWORK", Columns: []string{"StatusCode", "Response"},
	Doc: "Sends rows to Elasticsearch or OpenSearch with the bulk API. Each post gives a row. Rows that the target is too busy for are sent again; " +
		"rows that it refuses are told of in Response and in the log. A row may arrive twice when an answer is lost.",
}, func(ctx context.Context, scope *vql.Scope, args *elasticArgs, emit vql.Emit) error {
	target, err := newElastic(scope, args)
	if err != nil {
		return err
	}
	defer target.out.close()
	return forward(ctx, scope, forwardOptions{
		name: "elastic_upload", threads: args.Threads, batchRows: orDefault(args.ChunkSize, 1000),
		batchBytes: elasticBatchBytes, buffer: args.MaxBuffer, wait: secondsOf(orDefault(args.WaitTime, 2)),
		retries: defaultForwardRetries, pause: target.out.pauses(time.Second),
	}, target, args.Query, emit)
})

// elastic posts to the bulk API.
type elastic struct {
	args   *elasticArgs
	out    *outbound
	nodes  []string      // URLs of the bulk API
	next   atomic.Uint64 // the node to ask; it moves on when one fails
	header http.Header
}

func newElastic(scope *vql.Scope, args *elasticArgs) (*elastic, error) {
	if args.Secret != "" {
		return nil, errSecrets
	}
	if args.Action == "" {
		args.Action = "index"
	}
	if args.Action != "index" && args.Action != "create" {
		return nil, fmt.Errorf("%w, not %s", errElasticAction, args.Action)
	}
	e := &elastic{args: args, header: http.Header{}}
	if err := e.addNodes(); err != nil {
		return nil, err
	}
	e.header.Set("Content-Type", "application/x-ndjson")
	switch {
	case args.APIKey != "":
		e.header.Set("Authorization", "ApiKey "+args.APIKey)
	case args.Username != "":
		e.header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(args.Username+":"+args.Password)))
	}
	var err error
	e.out, err = newOutbound(scope, outboundOptions{skipVerify: args.SkipVerify || args.DisableSSL, rootCA: args.RootCA})
	return e, err
}

func (e *elastic) addNodes() error {
	addresses := e.args.Addresses
	if e.args.CloudID != "" {
		address, err := cloudAddress(e.args.CloudID)
		if err != nil {
			return err
		}
		addresses = []string{address}
	}
	if len(addresses) == 0 {
		return errElasticTarget
	}
	query := url.Values{"filter_path": {"errors,items.*.status,items.*.error"}}
	if e.args.Pipeline != "" {
		query.Set("pipeline", e.args.Pipeline)
	}
	for _, text := range addresses {
		node, err := webURL(text)
		if err != nil {
			return err
		}
		node = node.JoinPath("_bulk")
		node.RawQuery = query.Encode()
		e.nodes = append(e.nodes, node.String())
	}
	return nil
}

// cloudAddress reads a cloud id: NAME:BASE64, where the text in base64 is
// HOST[:PORT]$ELASTICSEARCH[:PORT]$KIBANA.
func cloudAddress(id string) (string, error) {
	_, encoded, _ := strings.Cut(id, ":")
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errCloudID, err)
	}
	host, rest, _ := strings.Cut(string(text), "$")
	cluster, _, _ := strings.Cut(rest, "$")
	host, port, _ := strings.Cut(host, ":")
	cluster, own, ok := strings.Cut(cluster, ":")
	if ok {
		port = own
	}
	if port == "" {
		port = "443"
	}
	address := "https://" + cluster + "." + host + ":" + port
	if u, err := url.Parse(address); err != nil || cluster == "" || host == "" || u.Hostname() != cluster+"."+host {
		return "", errCloudID
	}
	return address, nil
}

func (e *elastic) encode(ctx context.Context, scope *vql.Scope, row *vql.Dict) ([]byte, error) {
	index := e.args.Index
	if v, ok := row.Get("_index"); ok && !vql.IsNull(v) {
		index = scope.String(ctx, v)
	}
	if index == "" {
		return nil, errElasticIndex
	}
	// The type's own place is before version 7; later targets refuse it.
	facts := struct {
		Index string `json:"_index"`
		Type  string `json:"_type,omitempty"`
	}{index, e.args.Type}
	head, err := json.Marshal(map[string]any{e.args.Action: facts})
	if err != nil {
		return nil, err
	}
	out := scope.AppendJSON(append(head, '\n'), withoutColumns(row, "_index"))
	return append(out, '\n'), nil
}

func (e *elastic) post(ctx context.Context, rows [][]byte) forwardAnswer {
	turn := e.next.Load()
	r, err := e.send(ctx, e.nodes[turn%uint64(len(e.nodes))], bytes.Join(rows, nil))
	a := answerFor(r, err, rows)
	switch {
	case a.reason == "":
		e.read(r, rows, &a)
	case len(a.again) > 0 && !a.large:
		e.next.CompareAndSwap(turn, turn+1)
	}
	return a
}

func (e *elastic) send(ctx context.Context, node string, body []byte) (*reply, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, node, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header = e.header.Clone()
	return e.out.do(request)
}

// bulkAnswer is the answer of the bulk API, filtered to what we read.
type bulkAnswer struct {
	Errors bool                  `json:"errors"`
	Items  []map[string]bulkItem `json:"items"`
}

type bulkItem struct {
	Status int             `json:"status"`
	Error  json.RawMessage `json:"error"`
}

// read finds the rows that were not taken though the answer as a whole is a success.
func (e *elastic) read(r *reply, rows [][]byte, a *forwardAnswer) {
	var bulk bulkAnswer
	if err := json.Unmarshal(r.body, &bulk); err != nil {
		a.refused, a.reason = len(rows), "what became of the rows is unknown: the answer is no JSON: "+r.text()
		return
	}
	if !bulk.Errors {
		a.text = fmt.Sprintf("%d rows taken", len(rows))
		return
	}
	if len(bulk.Items) != len(rows) {
		a.refused, a.reason = len(rows), fmt.Sprintf("what became of the rows is unknown: the answer tells of %d rows, not %d", len(bulk.Items), len(rows))
		return
	}
	for i, item := range bulk.Items {
		e.readItem(item, rows[i], a)
	}
	a.text = fmt.Sprintf("%d rows taken", len(rows)-a.refused-len(a.again))
}

// readItem sorts one row: taken, to be sent again, or refused. The reason of a
// refusal stands before that of a row which is sent again.
func (e *elastic) readItem(item map[string]bulkItem, row []byte, a *forwardAnswer) {
	reason, again := "what became of the row is unknown", false
	if len(item) == 1 {
		for _, facts := range item { // the one is named by its action
			if facts.Status/100 == 2 {
				return
			}
			reason, again = fmt.Sprintf("status %d: %s", facts.Status, cutText(string(facts.Error))), passing(&statusError{status: facts.Status})
		}
	}
	if again {
		a.again = append(a.again, row)
	} else {
		a.refused++
	}
	if a.reason == "" || !again && a.refused == 1 {
		a.reason = reason
	}
}

func (e *elastic) row(o *forwardOutcome) *vql.Dict {
	row := vql.NewDict()
	row.Set("StatusCode", int64(o.status))
	row.Set("Response", o.response())
	return row
}
