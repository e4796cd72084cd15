package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"raptorpack/vql"
)

type netcatArgs struct {
	Address   string `vql:"address,required" doc:"host:port, or the path of a socket."`
	Type      string `vql:"type" doc:"tcp, udp or unix (tcp)."`
	Send      string `vql:"send" doc:"What to send first."`
	Sep       string `vql:"sep" doc:"What stands between rows (a line feed)."`
	ChunkSize int64  `vql:"chunk_size" doc:"Longer rows are cut into pieces of so many bytes (64 KiB)."`
	Retry     int64  `vql:"retry" doc:"Connect again after so many seconds (do not)."`
}

const dialPatience = 30 * time.Second

var netcatPlugin = vql.NewPlugin(vql.Spec{
	Name: "netcat", Permission: "NETWORK", Doc: "Connects to a socket and gives what it sends.", Columns: []string{"Data"},
}, func(ctx context.Context, scope *vql.Scope, args *netcatArgs, emit vql.Emit) error {
	switch args.Type {
	case "":
		args.Type = "tcp"
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "unix", "unixgram":
	default:
		return fmt.Errorf("unknown type %q", args.Type)
	}
	if args.Sep == "" {
		args.Sep = "\n"
	}
	emit = stopping(emit)
	for {
		err := netcat(ctx, scope, args, emit)
		var stop emitError
		switch {
		case errors.As(err, &stop):
			return stop.err
		case ctx.Err() != nil:
			return ctx.Err()
		case args.Retry <= 0:
			return err
		case err != nil:
			scope.Log(vql.LevelDefault, "netcat: %v", err)
		}
		if err := pause(ctx, time.Duration(min(args.Retry, 24*3600))*time.Second); err != nil {
			return err
		}
	}
})

// netcat reads one connection to its end.
func netcat(ctx context.Context, scope *vql.Scope, args *netcatArgs, emit vql.Emit) error {
	dialer := &net.Dialer{Timeout: dialPatience}
	conn, err := dialer.DialContext(ctx, args.Type, args.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends what waits below
	defer stop()
	if _, err := io.WriteString(conn, args.Send); err != nil {
		return fmt.Errorf("send to %s: %w", args.Address, err)
	}
	limit := defaultBlock
	if args.ChunkSize > 0 {
		limit = int(min(args.ChunkSize, maxBlock))
	}
	var rest []byte
	buf := make([]byte, min(limit, 64<<10))
	for {
		n, err := conn.Read(buf)
		if cerr := scope.Charge(ctx); cerr != nil {
			return emitError{cerr}
		}
		var stopped error
		if rest, stopped = splitStream(append(rest, buf[:n]...), []byte(args.Sep), limit, emit); stopped != nil {
			return stopped
		}
		if err == nil {
			continue
		}
		if len(rest) > 0 {
			if err := emit(vql.NewDict().Set("Data", string(rest))); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return fmt.Errorf("read from %s: %w", args.Address, err)
	}
}

// splitStream emits the rows that are whole and returns what is left.
func splitStream(data, sep []byte, limit int, emit vql.Emit) ([]byte, error) {
	for {
		end, skip := bytes.Index(data, sep), len(sep)
		if end < 0 || end > limit {
			if len(data) < limit {
				return data, nil
			}
			end, skip = limit, 0
		}
		if err := emit(vql.NewDict().Set("Data", string(data[:end]))); err != nil {
			return nil, err
		}
		data = data[end+skip:]
	}
}
