package node

import (
	"context"
	"io"
	"os"

	"raptorpack/api"
	"raptorpack/collections"
	"raptorpack/vql"
	"raptorpack/vql/server"
)

// collectionImports takes in collections from elsewhere. A zip lies in the system's
// folder for temporary files while it is read.
func (n *Node) collectionImports() *collections.Importer {
	return collections.NewImporter(collections.ImporterOptions{
		Writer: n.committer, Incarnation: n.incarnation.Name(), Store: n.store, Flows: n.flows, Clients: n.clients,
		Forget: n.committer.Forget, Scratch: os.TempDir(),
	})
}

// importsFor brings things in in the name of who asks a query.
type importsFor struct {
	api *api.Server
	who *api.Principal
}

// Collection implements server.Imports.
func (i importsFor) Collection(ctx context.Context, wish server.ImportWish, from io.Reader) (*vql.Dict, error) {
	in, err := i.api.ImportCollection(ctx, i.who, collections.Wish{Client: wish.Client, Hostname: wish.Hostname, Password: wish.Password}, from)
	if err != nil {
		return nil, err
	}
	return vql.NewDict().Set("FlowId", in.Flow).Set("ClientId", in.Client).Set("Flow", vql.NewDict().
		Set("client_id", in.Client).Set("session_id", in.Flow).Set("known", in.Known).Set("total_collected_rows", in.Rows).
		Set("total_logs", in.Logs).Set("total_uploaded_files", in.Uploads).Set("skipped_uploads", len(in.Skipped))), nil
}

// Hunt implements server.Imports.
func (i importsFor) Hunt(ctx context.Context, from io.Reader) (*vql.Dict, error) {
	in, err := i.api.ImportHunt(ctx, i.who, from, "", api.Writing{})
	if err != nil {
		return nil, err
	}
	return vql.NewDict().Set("HuntId", in.Hunt).Set("Rows", in.Rows).Set("Uploads", in.Uploads).Set("skipped_uploads", len(in.Skipped)), nil
}
