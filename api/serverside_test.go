package api_test

import (
	"strings"
	"testing"

	"raptorpack/api"
	"raptorpack/flows"
	"raptorpack/ids"
)

const serverArtifact = `name: Custom.Server.Some
type: SERVER
impersonate: administrator
sources:
- query: SELECT 1 AS One FROM scope()
`

func TestCollectionsOnTheServerNeedTheirOwnPermission(t *testing.T) {
	w := newWorld(t)
	w.want(403, "artifact_writer", "PUT", "/api/v1/artifacts", map[string]string{"text": serverArtifact})
	w.want(200, "administrator", "PUT", "/api/v1/artifacts", map[string]string{"text": serverArtifact})
	const path = "/api/v1/clients/server/flows"
	w.want(403, "investigator", "POST", path, wish("Custom.Server.Some", nil))
	if r := w.want(422, "administrator", "POST", path, wish("Generic.Client.Info", nil)); !strings.Contains(string(r.body), "not for collecting on the server") {
		t.Errorf("%s", r.body)
	}
	if r := w.want(422, "administrator", "POST", w.flowsPath(), wish("Custom.Server.Some", nil)); !strings.Contains(string(r.body), "not for collecting from a client") {
		t.Errorf("%s", r.body)
	}
	connection := w.flows.Attach(ids.RootOrg, ids.Server)
	defer connection.Close()
	var started api.Collected
	w.want(200, "administrator", "POST", path, wish("Custom.Server.Some", nil)).into(t, &started)
	for _, m := range connection.Next() {
		if as := m.GetFlowRequest().GetVqlClientActions()[0].GetEffectivePrincipal(); as != "administrator" {
			t.Errorf("runs as %q", as)
		}
	}
	flow, err := ids.ParseFlow(started.Flow)
	w.check(err)
	if f, err := w.flows.Flow(flows.Key{Client: ids.Server, Flow: flow}); err != nil || f.Spec.Creator != "administrator" {
		t.Errorf("%+v, %v", f, err)
	}
	w.want(403, "investigator", "POST", path+"/"+started.Flow+"/cancel", nil)
	w.want(200, "administrator", "POST", path+"/"+started.Flow+"/cancel", nil)
	var list api.List[api.Flow]
	w.want(200, "reader", "GET", path, nil).into(t, &list)
	if len(list.Items) != 1 || list.Items[0].State != "cancelled" {
		t.Errorf("%+v", list)
	}
}
