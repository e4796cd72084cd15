package server

import (
	"context"
	"fmt"

	"raptorpack/vql"
)

// errOneOrg is what changes of orgs are answered with: everything stored names its
// org, but there is one.
var errOneOrg = fmt.Errorf("there is one org, root: %w", ErrUnsupported)

type orgCreateArgs struct {
	Name  string `vql:"name,required" doc:"What it is called."`
	OrgID string `vql:"org_id" doc:"Its id (a new one)."`
}

var orgCreateFunction = vql.NewFunction(vql.Spec{
	Name: "org_create", Permission: "ORG_ADMIN", Doc: "Would make an org; this version has one, and says so.",
}, func(context.Context, *vql.Scope, *orgCreateArgs) (vql.Value, error) { return nil, errOneOrg })

type orgDeleteArgs struct {
	Org        string `vql:"org,required" doc:"The org."`
	ReallyDoIt bool   `vql:"really_do_it" doc:"Delete it."`
}

var orgDeleteFunction = vql.NewFunction(vql.Spec{
	Name: "org_delete", Permission: "ORG_ADMIN", Doc: "Would delete an org; this version has one, and says so.",
}, func(context.Context, *vql.Scope, *orgDeleteArgs) (vql.Value, error) { return nil, errOneOrg })

var frontendCertFunction = vql.NewFunction(vql.Spec{
	Name: "server_frontend_cert", Permission: "MACHINE_STATE", Doc: "Gives the certificate that frontends show to clients, as PEM.",
}, func(_ context.Context, scope *vql.Scope, _ *noArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	if h.FrontendCertificate == "" {
		return nil, fmt.Errorf("certificate of the frontend: %w", ErrUnsupported)
	}
	return h.FrontendCertificate, nil
})
