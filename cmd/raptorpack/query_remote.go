package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/tidwall/gjson"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"raptorpack/proto/wirepb"
)

// maxGRPCMessage is what a message may have unless the API client file says
// otherwise (max_grpc_recv_size): more than one row as servers send them.
const maxGRPCMessage = 64 << 20

// remote runs the query on a server, over its programs' door.
func (q *queryFlags) remote(c *cobra.Command, g *globals, text string) error {
	request, err := q.wire(text)
	if err != nil {
		return err
	}
	d, err := g.openDoor(c)
	if err != nil {
		return err
	}
	if d.grpc == "" || len(d.tls.Certificates) == 0 {
		return usage("a query on a server goes over gRPC and needs a certificate: --api-client FILE, or --config server.yaml on the server's host")
	}
	p, err := g.printer(c)
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient("passthrough:///"+d.grpc, grpc.WithTransportCredentials(credentials.NewTLS(d.tls)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(d.most)))
	if err != nil {
		return fmt.Errorf("reach %s: %w", d.grpc, err)
	}
	log := newQueryLog(c.ErrOrStderr(), g)
	err = steadily(p, func() error {
		stream, err := wirepb.NewAPIClient(connection).Query(c.Context(), request)
		if err != nil {
			return err
		}
		return receive(stream, p, log)
	})
	err = errors.Join(grpcError(d.grpc, err), p.close(), connection.Close())
	return log.verdict(c.Context(), err)
}

// wire is the query as the programs' door takes it.
func (q *queryFlags) wire(text string) (*wirepb.VQLCollectorArgs, error) {
	env, err := environment(q.env)
	if err != nil {
		return nil, err
	}
	timeout, err := parseSeconds(q.timeout)
	if err != nil {
		return nil, err
	}
	out := &wirepb.VQLCollectorArgs{MaxRow: 1000, MaxWait: 1, Timeout: timeout, Query: []*wirepb.VQLRequest{{Vql: text}}}
	for _, name := range env.Keys() {
		value, _ := env.Get(name)
		out.Env = append(out.Env, &wirepb.VQLEnv{Key: name, Value: value.(string)})
	}
	return out, nil
}

func receive(stream grpc.ServerStreamingClient[wirepb.VQLResponse], p *printer, log *queryLog) error {
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if message.GetLog() != "" {
			level, line, ok := strings.Cut(message.GetLog(), ":")
			if !ok {
				level, line = "DEFAULT", message.GetLog()
			}
			log.line(level, line)
		}
		var failed error
		gjson.Parse(message.GetResponse()).ForEach(func(_, row gjson.Result) bool {
			failed = p.row([]byte(row.Raw))
			return failed == nil
		})
		if failed != nil {
			return failed
		}
	}
}

// grpcError gives a refusal its exit code.
func grpcError(address string, err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	code := exitFailed
	switch s.Code() {
	case codes.NotFound:
		code = exitNotFound
	case codes.PermissionDenied, codes.Unauthenticated:
		code = exitForbidden
	case codes.Unavailable:
		code = exitUnreachable
	case codes.InvalidArgument:
		code = exitUsage
	case codes.DeadlineExceeded:
		code = exitTimeout
	}
	return &exitError{code, fmt.Errorf("query on %s: %s", address, harmless(s.Message()))}
}
