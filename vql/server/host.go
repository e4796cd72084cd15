package server

import (
	"context"
	"errors"
	"fmt"
	"io"

	"raptorpack/artifacts"
	"raptorpack/clients"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/inventory"
	"raptorpack/notebooks"
	"raptorpack/proto/buspb"
	"raptorpack/users"
	"raptorpack/vql"
)

var (
	// ErrNoServer means that the session has no Host: the query does not run on a
	// server.
	ErrNoServer = errors.New("this query does not run on a server")

	// ErrUnsupported means that this version has no such thing. Trying again does
	// not help.
	ErrUnsupported = errors.New("not available in this version")

	// ErrArgument means that the arguments contradict each other or name nothing.
	ErrArgument = errors.New("bad argument")
)

// Proposer brings changes into the ledger.
type Proposer interface {
	// Propose returns when m is durable in the ledger and this node has applied
	// it: who writes here reads it here.
	Propose(ctx context.Context, m *buspb.Mutation) error
}

// Host is what server primitives work on, in the name of one principal: a service
// of the session (vql.SessionOptions.Services, as *Host). It must not be changed
// once handed in, and is safe for concurrent use. The permissions of its
// principal are the session's.
type Host struct {
	Org       ids.Org
	Principal string // who asks, as the audit trail names them

	Clients   *clients.Room
	Flows     *flows.Room
	Artifacts *artifacts.Room
	Users     *users.Room
	Ledger    Proposer

	// Collect starts a collection. It checks the principal's permissions, the
	// artifacts' required permissions too, and leaves the audit line: all doors
	// start collections by the same function.
	Collect func(ctx context.Context, c Collection) (ids.Flow, error)

	// Hunts are the hunts that queries see, and Rows reads what came of them; nil:
	// primitives of hunts say that there are none.
	Hunts *hunts.Room
	Rows  *filestore.Reader

	// CreateHunt makes a hunt as Collect starts a collection: it checks the
	// principal's permissions and leaves the audit line. Not nil where Hunts is not.
	CreateHunt func(ctx context.Context, h Hunt) (ids.Hunt, error)

	// AddFlow adds a collection to a hunt and leaves the audit line; nil: it does not
	// work.
	AddFlow func(ctx context.Context, w hunts.CopyWish) error

	// Tools are the tools that artifacts need, Inventory what they are changed by; nil:
	// none of both.
	Tools     *inventory.Room
	Inventory Inventory

	// Notebooks are what notebooks have, Timelines the rows of their timelines; nil:
	// none of both.
	Notebooks *notebooks.Room
	Timelines *notebooks.Files

	// Events reads and changes event tables; nil: neither works.
	Events *EventTables

	// Unasked are the artifacts that the server runs on clients by itself; a custom
	// one in the place of such is for trusted writers.
	Unasked []string

	// Files is where the rooms' files lie, for the fs accessor and for listing
	// them; nil: neither works.
	Files *filestore.Store

	// Downloads make zips of flows and hunts; nil: none are made.
	Downloads Downloads

	// Imports bring in what was collected elsewhere, with the checks and audit lines of
	// the doors; nil: nothing is.
	Imports Imports

	// Repack copies a program with another client file and further files; nil: it does
	// not work.
	Repack func(to io.Writer, program io.ReaderAt, size int64, config []byte, files []Packed) error

	// Audit leaves a line in the audit trail once a change is in the ledger; nil:
	// none. What cannot be kept is its own to tell.
	Audit func(ctx context.Context, operation, object string, details map[string]string)

	// FrontendCertificate is what frontends show to clients, as PEM; empty: not known.
	FrontendCertificate string

	// OrgInfo describes the org to those who may administrate the server, with values
	// of its own each time: queries may change them. nil: nothing is told.
	OrgInfo func(ids.Org) OrgInfo

	// Version is that of the program, which queries see as config.Version.Version.
	Version string
}

// Variables implements vql.Variables. config has what an agent shows its queries of the
// file that it was given: no nonce, and no proxy, which may name a password.
func (h *Host) Variables() *vql.Dict {
	config := vql.NewDict()
	if h.OrgInfo != nil {
		client := h.OrgInfo(h.Org).clientSection()
		for _, name := range []string{"server_urls", "ca_certificate"} {
			if v, ok := client.Get(name); ok {
				config.Set(name, v)
			}
		}
	}
	version := vql.NewDict().Set("Name", "raptorpack").Set("Version", h.Version).Set("BuildTime", "").
		Set("CiBuildUrl", "").Set("InstallTime", int64(0))
	return vql.NewDict().Set("config", config.Set("Version", version).Set("Labels", []string{})).Set("_SessionId", "")
}

// Packed is a further file that goes into a repacked program.
type Packed struct {
	Name string
	Open func() (io.ReadCloser, error)
}

// OrgInfo is what somebody needs who deploys clients of an org.
type OrgInfo struct {
	Nonce        string
	ClientConfig *vql.Dict // the file that clients are given
}

// clientSection is the part of the clients' file that is about clients; empty if there
// is none.
func (i OrgInfo) clientSection() *vql.Dict {
	if i.ClientConfig != nil {
		v, _ := i.ClientConfig.Get("Client")
		if client, ok := v.(*vql.Dict); ok {
			return client
		}
	}
	return vql.NewDict()
}

// Collection is a wish to run artifacts on one client.
type Collection struct {
	Client    ids.Client
	Artifacts []flows.Artifact
	Urgent    bool

	// Limits; 0 leaves what the artifacts say.
	TimeoutSeconds uint64
	CPUPercent     float64
	IOPS           float64
	MaxRows        uint64
	MaxUploadBytes uint64
}

// hostOf returns the session's Host.
func hostOf(scope *vql.Scope) (*Host, error) {
	h, ok := vql.Service[*Host](scope)
	if !ok || h == nil {
		return nil, ErrNoServer
	}
	return h, nil
}

// change proposes a planned mutation and leaves its audit line.
func (h *Host) change(ctx context.Context, m *buspb.Mutation, operation, object string, details map[string]string) error {
	m.Principal = h.Principal
	if err := h.Ledger.Propose(ctx, m); err != nil {
		return err
	}
	if h.Audit != nil {
		h.Audit(ctx, operation, object, details)
	}
	return nil
}

// sameOrg refuses org ids other than the Host's own.
func (h *Host) sameOrg(texts ...string) error {
	for _, text := range texts {
		if text == "" {
			continue // the present org
		}
		org, err := ids.ParseOrg(text)
		if err != nil {
			return err
		}
		if org != h.Org {
			return fmt.Errorf("org %.40q: queries reach their own org only: %w", text, ErrUnsupported)
		}
	}
	return nil
}

// flowOf returns the host of a query and the flow that it names.
func flowOf(scope *vql.Scope, client, flow string) (*Host, flows.Key, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, flows.Key{}, err
	}
	key, err := h.key(client, flow)
	return h, key, err
}

// key reads the ids of a flow.
func (h *Host) key(client, flow string) (flows.Key, error) {
	c, err := ids.ParseClient(client)
	if err != nil {
		return flows.Key{}, err
	}
	f, err := ids.ParseFlow(flow)
	if err != nil {
		return flows.Key{}, err
	}
	return flows.Key{Org: h.Org, Client: c, Flow: f}, nil
}

// need asks for one permission more than the Spec says.
func need(scope *vql.Scope, permission users.Permission) error {
	return scope.Allowed(string(permission))
}
