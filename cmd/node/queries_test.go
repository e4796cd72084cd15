package node

import (
	"reflect"
	"testing"
	"time"

	"raptorpack/api"
	"raptorpack/flows"
	"raptorpack/vql/server"
)

// What a query wishes for is what the door is asked, to the last field.
func TestHuntsOfQueriesReachTheDoorWhole(t *testing.T) {
	at := time.Unix(4_000_000_000, 0)
	got := huntRequest(server.Hunt{
		Collection: server.Collection{
			Artifacts:      []flows.Artifact{{Name: "A.B", Parameters: []flows.Parameter{{Name: "P", Value: "v"}}}},
			TimeoutSeconds: 1, CPUPercent: 2, IOPS: 3, MaxRows: 4, MaxUploadBytes: 5,
		},
		Description: "d", Expires: at, IncludeLabels: []string{"i"}, ExcludeLabels: []string{"e"}, OS: "linux", Start: true,
	})
	want := api.HuntRequest{
		CollectRequest: api.CollectRequest{
			Artifacts: []api.CollectSpec{{Name: "A.B", Parameters: map[string]string{"P": "v"}}},
			Limits:    api.CollectLimits{TimeoutSeconds: 1, CPUPercent: 2, IOPS: 3, MaxRows: 4, MaxUploadBytes: 5},
		},
		HuntTargets: api.HuntTargets{IncludeLabels: []string{"i"}, ExcludeLabels: []string{"e"}, OS: "linux"},
		Description: "d", Expires: at, Start: true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
