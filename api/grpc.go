package api

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/users"
	"raptorpack/vql"
)

const (
	defaultMaxRow  = 1000             // rows of a message
	defaultMaxWait = 10 * time.Second // until a message with fewer is sent
	maxMessage     = 3 << 20          // bytes of rows, and of their query, in a message: callers take 4 MiB unless told otherwise
	maxPiece       = 1 << 20          // bytes of a file in a message
	maxAuditedText = 4000             // bytes of a query in its audit line
)

// newGRPC builds the programs' door: mutual TLS, everybody is a known user.
func (s *Server) newGRPC() *grpc.Server {
	var options []grpc.ServerOption
	if s.o.Certificate != nil {
		config := s.tlsConfig(tls.RequireAndVerifyClientCert)
		config.NextProtos = []string{"h2"}
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	options = append(options,
		grpc.UnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (_ any, err error) {
			defer func() { s.metrics.countCall(err) }()
			ctx, err = s.identifyPeer(ctx)
			if err != nil {
				return nil, s.failGRPC(err)
			}
			return handler(ctx, in)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
			defer func() { s.metrics.countCall(err) }()
			ctx, err := s.identifyPeer(stream.Context())
			if err != nil {
				return s.failGRPC(err)
			}
			return handler(srv, &knownStream{stream, ctx})
		}))
	server := grpc.NewServer(options...)
	wirepb.RegisterAPIServer(server, &programs{s: s})
	healthpb.RegisterHealthServer(server, &healthCheck{s: s})
	reflection.Register(server)
	return server
}

type knownStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (k *knownStream) Context() context.Context { return k.ctx }

func (s *Server) identifyPeer(ctx context.Context) (context.Context, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errNobody
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil, errNobody
	}
	who, err := s.certificateHolder(info.State.PeerCertificates[0], host(p.Addr.String()))
	if err != nil {
		return nil, err
	}
	return context.WithValue(ctx, principalKey{}, who), nil
}

// stopGRPC lets calls end by themselves as long as the grace lasts.
func (s *Server) stopGRPC(grace context.Context) {
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-grace.Done():
		s.grpc.Stop()
		<-done
	}
}

// healthCheck answers the standard health service by what the node says of
// itself.
type healthCheck struct {
	healthpb.UnimplementedHealthServer
	s *Server
}

func (h *healthCheck) state() healthpb.HealthCheckResponse_ServingStatus {
	if h.s.o.Status().Ready != "" {
		return healthpb.HealthCheckResponse_NOT_SERVING
	}
	return healthpb.HealthCheckResponse_SERVING
}

// Check answers once.
func (h *healthCheck) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{Status: h.state()}, nil
}

// Watch tells each change.
func (h *healthCheck) Watch(_ *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := healthpb.HealthCheckResponse_UNKNOWN
	for {
		if now := h.state(); now != last {
			last = now
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-h.s.leaving:
			return h.s.failGRPC(errLeaving)
		case <-stream.Context().Done():
			return h.s.failGRPC(context.Cause(stream.Context()))
		}
	}
}

// programs answers the calls of proto.API.
type programs struct {
	wirepb.UnimplementedAPIServer
	s *Server
}

// Check answers the health check.
func (p *programs) Check(context.Context, *wirepb.HealthCheckRequest) (*wirepb.HealthCheckResponse, error) {
	status := wirepb.HealthCheckResponse_SERVING
	if p.s.o.Status().Ready != "" {
		status = wirepb.HealthCheckResponse_NOT_SERVING
	}
	return &wirepb.HealthCheckResponse{Status: status}, nil
}

// Query runs statements in one scope with the caller's permissions.
func (p *programs) Query(in *wirepb.VQLCollectorArgs, stream grpc.ServerStreamingServer[wirepb.VQLResponse]) error {
	ctx := stream.Context()
	who, err := p.s.may(ctx, users.AnyQuery)
	if err != nil {
		return p.s.failGRPC(err)
	}
	if err := rootOrg(in.GetOrgId()); err != nil {
		return p.s.failGRPC(err)
	}
	run := &queryRun{s: p.s, who: who, in: in, stream: stream, out: make(chan *wirepb.VQLResponse, 16), ended: make(chan struct{})}
	if err := run.run(ctx); err != nil {
		return p.s.failGRPC(err)
	}
	return nil
}

// rootOrg refuses other orgs: this version has none, and nobody must take the root
// org's rows for theirs.
func rootOrg(text string) error {
	org, err := ids.ParseOrg(text)
	if err != nil {
		return err
	}
	if org != ids.RootOrg {
		return fmt.Errorf("org %.40q: there is only the root org: %w", text, flows.ErrInvalid)
	}
	return nil
}

// queryRun is one Query call under way. Rows and log lines come from the query's
// goroutines; send is the only writer of the stream.
type queryRun struct {
	s      *Server
	who    *Principal
	in     *wirepb.VQLCollectorArgs
	stream grpc.ServerStreamingServer[wirepb.VQLResponse]

	out    chan *wirepb.VQLResponse // 16 slots; full: the query waits for the caller to read
	ended  chan struct{}            // closed when nobody reads out any more
	broken error                    // why the stream takes no more
}

func (q *queryRun) run(ctx context.Context) error {
	if len(q.in.GetQuery()) == 0 {
		return fmt.Errorf("Query should be specified: %w", flows.ErrInvalid)
	}
	if q.in.GetTimeout() > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(q.in.GetTimeout())*time.Second)
		defer cancel()
	}
	q.s.Audit(ctx, q.who, "query", "", auditedQuery(q.in))
	work, stop := context.WithCancel(ctx)
	defer stop()
	defer close(q.ended)
	done := make(chan error, 1) // one value: how the queries ended
	go func() { done <- q.queries(work) }()
	leaving := q.s.leaving
	for {
		select {
		case message := <-q.out:
			q.deliver(message, stop)
		case <-leaving:
			leaving = nil
			q.broken = errLeaving
			stop()
		case err := <-done:
			q.rest(stop)
			if q.broken != nil {
				return q.broken
			}
			if errors.Is(err, context.Canceled) {
				return context.Cause(ctx)
			}
			return err
		}
	}
}

// deliver sends a message; when the caller is gone, or may not ask any more, the
// queries are told to stop, and what they still give is dropped.
func (q *queryRun) deliver(message *wirepb.VQLResponse, stop func()) {
	if q.broken != nil {
		return
	}
	q.broken = q.s.check(q.who, users.AnyQuery)
	if q.broken == nil {
		q.broken = q.stream.Send(message)
	}
	if q.broken != nil {
		stop()
	}
}

// rest delivers what the queries left behind.
func (q *queryRun) rest(stop func()) {
	for {
		select {
		case message := <-q.out:
			q.deliver(message, stop)
		default:
			return
		}
	}
}

// send hands a message to the one who writes to the stream. A log line that comes
// after the end of the call is dropped.
func (q *queryRun) send(message *wirepb.VQLResponse) {
	select {
	case q.out <- message:
	case <-q.ended:
	}
}

func (q *queryRun) queries(ctx context.Context) error {
	env := vql.NewDict()
	for _, e := range q.in.GetEnv() {
		env.Set(e.GetKey(), e.GetValue())
	}
	scope := q.s.newScope(q.who, env, func(level, message string) {
		q.send(&wirepb.VQLResponse{Log: level + ":" + message, Timestamp: uint64(time.Now().UnixMicro())})
	})
	defer scope.Close()
	for id, request := range q.in.GetQuery() {
		program, err := vql.Parse(request.GetVql())
		if err != nil {
			return fmt.Errorf("query %d: %w: %w", id+1, flows.ErrInvalid, err)
		}
		batch := &rowBatch{send: q.send, query: request, id: uint64(id), maxRow: int(q.in.GetMaxRow()), maxWait: time.Duration(q.in.GetMaxWait()) * time.Second, scope: scope}
		if err := batch.run(ctx, program); err != nil {
			return err
		}
		q.s.metrics.rows.Add(float64(batch.total))
	}
	return nil
}

// newScope makes a root scope in which who may do what its roles allow.
func (s *Server) newScope(who *Principal, env *vql.Dict, log func(level, message string)) *vql.Scope {
	o := s.sessionOf(who)
	o.Env, o.Log, o.Artifacts = env, log, s.o.Artifacts.Repository(ids.RootOrg)
	return s.o.Engine.NewScope(o)
}

// sessionOf is what who may use in queries.
func (s *Server) sessionOf(who *Principal) vql.SessionOptions {
	o := vql.SessionOptions{Permissions: roleCheck{s, who}, Accessors: s.o.Accessors}
	if s.o.Services != nil {
		o.Services = s.o.Services(*who)
	}
	return o
}

// Absent is the address of those in whose name something runs while they are not
// there.
const Absent = "server"

// SessionOf is what somebody may use in queries that run while they are not there, as
// collections on the server. Permissions are asked for when they are needed: an
// account that is locked meanwhile may do nothing any more.
func (s *Server) SessionOf(name string) (vql.SessionOptions, error) {
	who := &Principal{Name: name, Address: Absent, Local: strings.HasPrefix(name, LocalPrefix)}
	if !who.Local {
		account, err := s.o.Users.Account(name)
		if err != nil {
			return vql.SessionOptions{}, err
		}
		if account.Locked {
			return vql.SessionOptions{}, fmt.Errorf("user %.40q is locked: %w", name, users.ErrDenied)
		}
	}
	return s.sessionOf(who), nil
}

// Permissions is what who may do, at each moment it is asked; for queries that run
// without a caller.
func (s *Server) Permissions(who *Principal) vql.Permissions { return roleCheck{s, who} }

type roleCheck struct {
	s   *Server
	who *Principal
}

// Allowed implements vql.Permissions.
func (r roleCheck) Allowed(permission string) bool {
	return r.s.check(r.who, users.Permission(permission)) == nil
}

// rowBatch gathers rows of one statement list into messages by count, bytes and
// time.
type rowBatch struct {
	send    func(*wirepb.VQLResponse)
	query   *wirepb.VQLRequest
	id      uint64
	maxRow  int
	maxWait time.Duration
	scope   *vql.Scope

	columns []string
	json    []byte
	row     []byte
	rows    int
	part    uint64
	total   int
}

func (b *rowBatch) run(ctx context.Context, program *vql.Program) error {
	if b.maxRow <= 0 {
		b.maxRow = defaultMaxRow
	}
	if b.maxWait <= 0 {
		b.maxWait = defaultMaxWait
	}
	rows := make(chan *vql.Dict) // no buffer: the query waits for its rows to be taken
	done := make(chan error, 1)  // one value: how the program ended
	go func() {
		done <- b.scope.RunProgram(ctx, program, func(row *vql.Dict) error {
			select {
			case rows <- row:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		close(rows)
	}()
	tick := time.NewTicker(b.maxWait)
	defer tick.Stop()
	for {
		select {
		case row, more := <-rows:
			if !more {
				b.flush()
				return <-done
			}
			b.add(row)
		case <-tick.C:
			b.flush()
		}
	}
}

func (b *rowBatch) add(row *vql.Dict) {
	if b.columns == nil {
		b.columns = row.Keys()
	}
	b.row = b.scope.AppendJSON(b.row[:0], row)
	if len(b.json)+len(b.row)+len(b.query.GetVql()) >= maxMessage {
		b.flush() // only a row that is larger by itself makes a larger message
	}
	if b.rows == 0 {
		b.json = append(b.json[:0], '[')
	} else {
		b.json = append(b.json, ',')
	}
	b.json = append(b.json, b.row...)
	b.rows++
	b.total++
	if b.rows >= b.maxRow {
		b.flush()
	}
}

func (b *rowBatch) flush() {
	if b.rows == 0 {
		return
	}
	b.send(&wirepb.VQLResponse{
		Response: string(append(b.json, ']')), Columns: b.columns, Query: b.query, QueryId: b.id, Part: b.part,
		TotalRows: uint64(b.rows), Timestamp: uint64(time.Now().UnixMicro()),
	})
	b.rows = 0
	b.part++
}

// VFSGetBuffer reads a piece of an upload. Components are its stored path, as the
// list of uploads tells it.
func (p *programs) VFSGetBuffer(ctx context.Context, in *wirepb.VFSFileBuffer) (*wirepb.VFSFileBuffer, error) {
	if _, err := p.s.may(ctx, users.ReadResults); err != nil {
		return nil, p.s.failGRPC(err)
	}
	if err := rootOrg(in.GetOrgId()); err != nil {
		return nil, p.s.failGRPC(err)
	}
	if in.GetOffset() > math.MaxInt64 {
		return nil, p.s.failGRPC(fmt.Errorf("offset %d: %w", in.GetOffset(), flows.ErrInvalid))
	}
	data, err := p.s.o.ReadStored(ctx, strings.Join(in.GetComponents(), "/"), int64(in.GetOffset()), int(min(in.GetLength(), maxPiece)), in.GetPadding())
	if err != nil {
		return nil, p.s.failGRPC(err)
	}
	return &wirepb.VFSFileBuffer{
		ClientId: in.GetClientId(), Offset: in.GetOffset(), Length: uint32(len(data)), Data: data, Components: in.GetComponents(), OrgId: in.GetOrgId(),
	}, nil
}

// auditedQuery is what the audit trail keeps of a query: its statements as far as
// there is room, the hash of all of them, and the names of what they were given,
// whose values may be secrets.
func auditedQuery(in *wirepb.VQLCollectorArgs) map[string]string {
	var texts, names []string
	for _, request := range in.GetQuery() {
		texts = append(texts, request.GetVql())
	}
	for _, e := range in.GetEnv() {
		names = append(names, e.GetKey())
	}
	text := strings.Join(texts, "\n")
	details := map[string]string{"vql": shorten(text, maxAuditedText), "sha256": fmt.Sprintf("%x", sha256.Sum256([]byte(text)))}
	if len(names) > 0 {
		details["env"] = shorten(strings.Join(names, ","), maxAuditedText)
	}
	return details
}

func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
