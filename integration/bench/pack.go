package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"raptorpack/config"
)

// portsOfNode is how far the ports of two nodes lie apart.
const portsOfNode = 10

// startPack runs several nodes on one empty store, each a process of its own, and
// waits until all are ready. The first may lead, and so may a second.
func (b *bench) startPack(ctx context.Context, name string, nodes int) ([]*server, error) {
	if err := os.RemoveAll(filepath.Join(b.out, name)); err != nil { // a store of an earlier run knows the clients already
		return nil, err
	}
	return b.startPackOn(ctx, name, nodes)
}

// startPackOn runs a pack on the store that is there, if there is one.
func (b *bench) startPackOn(ctx context.Context, name string, nodes int) ([]*server, error) {
	folder := filepath.Join(b.out, name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	port, err := freeRow(nodes)
	if err != nil {
		return nil, err
	}
	merge := fmt.Sprintf(`{"Frontend": {"bind_address": "127.0.0.1", "bind_port": %d, "use_plain_http": %t,
		"default_client_monitoring_artifacts": [], "resources": {"connections_per_second": 10000, "enrollments_per_second": 10000}},
		"GUI": {"bind_port": %d}, "API": {"bind_port": %d}, "Monitoring": {"bind_port": %d},
		"Bus": {"bind_address": "127.0.0.1", "bind_port": %d}, "Gossip": {"bind_address": "127.0.0.1", "bind_port": %d}}`, port, !b.tls, port+1, port+2, port+3, port+4, port+5)
	text, err := config.Generate(config.GenerateOptions{Datastore: filepath.Join(folder, "store"), Hostname: "localhost", Now: time.Now(), MergeJSON: merge})
	if err != nil {
		return nil, err
	}
	path := filepath.Join(folder, "server.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, err
	}
	var pack []*server
	for i := range nodes {
		s, err := b.startNode(ctx, name, path, i)
		if err != nil {
			return nil, err
		}
		pack = append(pack, s)
	}
	for _, s := range pack {
		if err := s.ready(ctx); err != nil {
			return nil, fmt.Errorf("%s (log in %s): %w", s.name, s.log.Name(), err)
		}
	}
	return pack, nil
}

// startNode runs one node of a pack.
func (b *bench) startNode(ctx context.Context, name, path string, i int) (*server, error) {
	offset := i * portsOfNode
	loaded, err := config.Load(path, config.Options{PortOffset: offset})
	if err != nil {
		return nil, err
	}
	node := "n" + strconv.Itoa(i)
	s := &server{name: name, node: node, bench: b, loaded: loaded, shared: true, monitor: fmt.Sprintf("http://127.0.0.1:%d", loaded.Monitoring.BindPort)}
	scheme := "http"
	if b.tls {
		scheme = "https"
	}
	s.loaded.Client.ServerURLs = []string{fmt.Sprintf("%s://127.0.0.1:%d/", scheme, loaded.Frontend.BindPort)}
	if s.door, err = newDoor(loaded, loaded.GUI.BindPort); err != nil {
		return nil, err
	}
	// Added to: a node that was killed may be started again.
	if s.log, err = os.OpenFile(filepath.Join(filepath.Dir(path), node+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return nil, err
	}
	return s, s.launch(ctx, path, node, strconv.Itoa(offset), strconv.FormatBool(i < 2))
}

// freeRow finds a row of ports for so many nodes, of which none is in use.
func freeRow(nodes int) (int, error) {
	for range 200 {
		first := 20_000 + portsOfNode*rand.N(1000)
		free := true
		for i := range nodes * portsOfNode {
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(first+i))
			if err != nil {
				free = false
				break
			}
			l.Close()
		}
		if free {
			return first, nil
		}
	}
	return 0, fmt.Errorf("no free row of ports for %d nodes: %w", nodes, errPatience)
}

func stopPack(pack []*server) error {
	for i := len(pack) - 1; i >= 0; i-- {
		if err := pack[i].stop(); err != nil {
			return err
		}
	}
	return nil
}
