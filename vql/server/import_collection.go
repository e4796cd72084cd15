package server

import (
	"context"
	"fmt"
	"io"

	"raptorpack/users"
	"raptorpack/vql"
)

// Imports bring in what was collected elsewhere.
type Imports interface {
	// Collection makes a zip a finished flow of a client; client is an id or auto.
	Collection(ctx context.Context, wish ImportWish, from io.Reader) (*vql.Dict, error)

	// Hunt makes a zip a hunt that is put away.
	Hunt(ctx context.Context, from io.Reader) (*vql.Dict, error)
}

// ImportWish says what a zip is to become.
type ImportWish struct {
	Client   string
	Hostname string
	Password string
}

type importCollectionArgs struct {
	ClientID   string    `vql:"client_id" doc:"The client that gets it, or auto: one made from the name of the host (auto)."`
	Hostname   string    `vql:"hostname" doc:"Of the host, for auto (as the zip says)."`
	Filename   *vql.Path `vql:"filename,required" doc:"The zip."`
	Accessor   string    `vql:"accessor" doc:"What opens it (auto)."`
	ImportType string    `vql:"import_type" doc:"collection or hunt (collection)."`
	Password   string    `vql:"password" doc:"Of a sealed zip."`
}

var importCollectionFunction = vql.NewFunction(vql.Spec{
	Name: "import_collection", Permission: "COLLECT_SERVER",
	Doc: "Brings in the zip of an offline collector or of an exported flow, as a finished flow of a client, or that of a hunt. Refuses a zip that is not sound whole; one that the client has already is not taken again. Needs FILESYSTEM_READ, too.",
}, func(ctx context.Context, scope *vql.Scope, args *importCollectionArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	if err := need(scope, users.FilesystemRead); err != nil {
		return nil, err
	}
	if args.ImportType != "" && args.ImportType != "collection" && args.ImportType != "hunt" {
		return nil, fmt.Errorf("import_type %.40q: expected collection or hunt: %w", args.ImportType, ErrArgument)
	}
	if h.Imports == nil {
		return nil, fmt.Errorf("import collections: %w", ErrUnsupported)
	}
	accessor, err := scope.Accessor(args.Accessor)
	if err != nil {
		return nil, err
	}
	file, err := accessor.Open(ctx, scope, args.Filename)
	if err != nil {
		return nil, err
	}
	defer file.Close() // only read
	if args.ImportType == "hunt" {
		return h.Imports.Hunt(ctx, file)
	}
	return h.Imports.Collection(ctx, ImportWish{Client: args.ClientID, Hostname: args.Hostname, Password: args.Password}, file)
})
