package node

import (
	"testing"
	"time"

	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

// The answers of an interrogation are found, whoever defined its artifact.
func TestInterrogationIsReadUnderTheNameOfItsArtifact(t *testing.T) {
	client, err := ids.ParseClient("C.00000000000000a1")
	if err != nil {
		t.Fatal(err)
	}
	for _, artifact := range []string{"Generic.Client.Info", "Custom.Generic.Client.Info"} {
		t.Run(artifact, func(t *testing.T) {
			disk, ledger := flowstest.NewDisk(), flowstest.NewLedger()
			room := flows.New(flows.Options{
				Committer: &flowstest.Committer{Disk: disk, Facts: ledger.Outbox}, Reader: disk, Incarnation: "n-1",
			})
			if err := ledger.Join(room.Table); err != nil {
				t.Fatal(err)
			}
			names := map[string]string{}
			request, answers := &wirepb.VQLCollectorArgs{}, []*wirepb.VeloMessage{}
			for source, row := range map[string]string{"BasicInformation": `{"Hostname":"lab1"}`, "Users": `{"Name":"ada"}`} {
				name := artifact + "/" + source
				names[name] = name
				request.Query = append(request.Query, &wirepb.VQLRequest{Vql: "SELECT * FROM info()", Name: name})
				answers = append(answers, &wirepb.VeloMessage{VqlResponse: &wirepb.VQLResponse{
					Query: &wirepb.VQLRequest{Name: name}, JsonlResponse: row + "\n", TotalRows: 1,
				}})
			}
			m, flow, err := flows.PlanStart(flows.Start{
				Clients: []ids.Client{client}, Names: names,
				Request: &wirepb.FlowRequest{VqlClientActions: []*wirepb.VQLCollectorArgs{request}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := ledger.Propose(m); err != nil {
				t.Fatal(err)
			}
			answers = append(answers, &wirepb.VeloMessage{FlowStats: &wirepb.FlowStats{
				FlowComplete: true, QueryStatus: []*wirepb.VeloStatus{{Status: wirepb.VeloStatus_OK, ResultRows: 2}},
			}})
			for _, m := range answers {
				m.SessionId = flow.String()
			}
			if err := room.Ingest(t.Context(), flows.Peer{Client: client, Received: time.Now()}, answers); err != nil {
				t.Fatal(err)
			}
			if err := ledger.Deliver(); err != nil {
				t.Fatal(err)
			}
			n := &Node{flows: room}
			got, err := n.readInterrogation(t.Context(), ids.RootOrg, client, flow)
			if err != nil {
				t.Fatal(err)
			}
			if string(got.Basic) != `{"Hostname":"lab1"}` || len(got.Users) != 1 || got.Users[0] != "ada" {
				t.Errorf("read %s, %v", got.Basic, got.Users)
			}
		})
	}
}
