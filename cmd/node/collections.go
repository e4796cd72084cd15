package node

import (
	"context"
	"fmt"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/runner"
	"raptorpack/users"
	"raptorpack/vql"
)

// wireRunner makes what runs collections on the server while this node leads.
func (n *Node) wireRunner() error {
	engine, err := n.engine()
	if err != nil {
		return err
	}
	n.runner = runner.New(runner.Options{
		Flows: n.flows, Engine: engine, Session: n.absentSession, Settled: n.toldOfServer,
		Registerer: n.registry, Logger: n.component("runner"),
	})
	return nil
}

// collectHere runs the collections of the pseudo client "server".
func (n *Node) collectHere(ctx context.Context, term *filestore.Term) error {
	return n.runner.Run(ctx, term.Valid)
}

// absentSession is what somebody may use whose collection runs here. An artifact may
// lend the permissions of an account, never those of whoever holds the server's file.
func (n *Node) absentSession(principal string, impersonated bool) (vql.SessionOptions, error) {
	if impersonated {
		if _, err := n.users.Account(principal); err != nil {
			return vql.SessionOptions{}, fmt.Errorf("impersonate: %w: %w", users.ErrDenied, err)
		}
	}
	return n.doors.api.SessionOf(principal)
}

// toldOfServer reports that no node has anything to tell of collections on the server
// that this one has not applied.
func (n *Node) toldOfServer(ctx context.Context) (bool, error) {
	facts, err := n.ledger.Untold(ctx)
	if err != nil {
		return false, err
	}
	speak, err := flows.SpeakOf(facts, ids.RootOrg, ids.Server)
	return !speak, err
}
