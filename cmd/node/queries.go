package node

import (
	"context"
	"io"

	"raptorpack/api"
	"raptorpack/collector"
	"raptorpack/config"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
	"raptorpack/vql/server"
)

// Engine holds what queries may call on a server: its own primitives, and
// those of the endpoint as far as permissions go.
func Engine() (*vql.Engine, error) {
	functions, plugins := server.Guard(endpoint.Functions(), append(endpoint.Plugins(), collector.Plugin))
	return vql.NewEngine(append(functions, server.Functions()...), append(plugins, server.Plugins()...))
}

// queryServices are what one query may use, in the name of who.
func (n *Node) queryServices(d *doors, who api.Principal) []any {
	m := n.o.Config.Mail
	return []any{n.queryHost(d, who), &endpoint.MailSettings{
		From: m.From, Server: m.Server, Port: m.ServerPort, Username: m.AuthUsername, Password: m.AuthPassword, SkipVerify: m.SkipVerify,
	}}
}

// engine is Engine, with what queries do counted among the node's metrics.
func (n *Node) engine() (*vql.Engine, error) {
	e, err := Engine()
	if err != nil {
		return nil, err
	}
	return e.Counted(n.counted), nil
}

// queryHost is what one query's primitives work on, in the name of who. Queries
// run behind the doors, so these are open by then.
func (n *Node) queryHost(d *doors, who api.Principal) *server.Host {
	return &server.Host{
		Org: ids.RootOrg, Principal: who.Name, Clients: n.clients, Flows: n.flows, Artifacts: n.artifacts, Users: n.users,
		Ledger: proposer{d.api, &who}, Tools: n.tools, Inventory: toolKeeper{n, d.api, &who}, Notebooks: n.notebooks, Timelines: n.timelines, Files: n.store, Hunts: n.hunts, Rows: n.reader, Unasked: n.unasked(), Downloads: downloadMaker{n}, Imports: importsFor{d.api, &who},
		Repack: repack,
		Collect: func(ctx context.Context, c server.Collection) (ids.Flow, error) {
			started, err := d.api.Collect(ctx, &who, c.Client, collectRequest(c))
			if err != nil {
				return ids.Flow{}, err
			}
			return ids.ParseFlow(started.Flow)
		},
		CreateHunt: func(ctx context.Context, h server.Hunt) (ids.Hunt, error) {
			made, err := d.api.CreateHunt(ctx, &who, huntRequest(h), api.Writing{})
			if err != nil {
				return ids.Hunt{}, err
			}
			return ids.ParseHunt(made.Hunt)
		},
		AddFlow: func(ctx context.Context, w hunts.CopyWish) error {
			_, err := d.api.AddFlowToHunt(ctx, &who, w, api.Writing{})
			return err
		},
		Audit: func(ctx context.Context, operation, object string, details map[string]string) {
			d.api.Audit(ctx, &who, operation, object, details)
		},
		Events: d.eventTables(&who),

		FrontendCertificate: n.o.Config.Frontend.Certificate,
		OrgInfo:             n.orgInfo,
		Version:             n.o.Version,
	}
}

// orgInfo is what somebody needs who deploys clients.
func (n *Node) orgInfo(ids.Org) server.OrgInfo {
	info := server.OrgInfo{Nonce: n.o.Config.Client.Nonce}
	text, err := n.o.Config.ClientFile()
	if err == nil {
		var file vql.Value
		file, err = endpoint.DecodeYAML(text)
		info.ClientConfig, _ = file.(*vql.Dict)
	}
	if err != nil {
		n.component("api").Error("client file for queries", "err", err)
	}
	return info
}

// repack hands what is to be packed on to who knows how.
func repack(to io.Writer, program io.ReaderAt, size int64, text []byte, files []server.Packed) error {
	packed := make([]config.Packed, len(files))
	for i, f := range files {
		packed[i] = config.Packed(f)
	}
	return config.Repack(to, program, size, text, packed)
}

// proposer brings the changes of one query into the ledger. They outlast the query,
// so that each leaves its audit line.
type proposer struct {
	api *api.Server
	who *api.Principal
}

func (p proposer) Propose(ctx context.Context, m *buspb.Mutation) error {
	return p.api.Propose(ctx, p.who, m)
}

func collectRequest(c server.Collection) api.CollectRequest {
	r := api.CollectRequest{Urgent: c.Urgent, Limits: api.CollectLimits{
		TimeoutSeconds: c.TimeoutSeconds, CPUPercent: c.CPUPercent, IOPS: c.IOPS, MaxRows: c.MaxRows, MaxUploadBytes: c.MaxUploadBytes,
	}}
	for _, a := range c.Artifacts {
		r.Artifacts = append(r.Artifacts, api.CollectSpec{Name: a.Name, Parameters: parametersOf(a)})
	}
	return r
}

func huntRequest(h server.Hunt) api.HuntRequest {
	return api.HuntRequest{
		CollectRequest: collectRequest(h.Collection), Description: h.Description, Tags: h.Tags, Expires: h.Expires, Start: h.Start,
		HuntTargets: api.HuntTargets{IncludeLabels: h.IncludeLabels, ExcludeLabels: h.ExcludeLabels, OS: h.OS},
	}
}

func parametersOf(a flows.Artifact) map[string]string {
	out := make(map[string]string, len(a.Parameters))
	for _, p := range a.Parameters {
		out[p.Name] = p.Value
	}
	return out
}
