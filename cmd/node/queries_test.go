package node

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"raptorpack/api"
	"raptorpack/config"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
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

// Who deploys clients is given the file for them, and nothing of the server.
func TestOrgsAreDescribedByTheClientsFile(t *testing.T) {
	text, err := config.Generate(config.GenerateOptions{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	file, err := config.Parse("server.yaml", text, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{o: Options{Config: file}}
	shown := string(vql.AppendJSON(nil, n.orgInfo(ids.RootOrg).ClientConfig))
	for _, part := range []string{`"Client":{`, `"server_urls":["https://`, `"ca_certificate":"-----BEGIN`, `"nonce":"`} {
		if !strings.Contains(shown, part) {
			t.Errorf("%s is missing in %s", part, shown)
		}
	}
	if strings.Contains(shown, "PRIVATE KEY") || strings.Contains(shown, "Frontend") {
		t.Errorf("it holds what is the server's: %s", shown)
	}
}

func TestQueriesMailThroughTheServerOfTheFile(t *testing.T) {
	file := &config.File{Mail: config.Mail{From: "pack@example", Server: "mail.example", ServerPort: 25, AuthUsername: "u", AuthPassword: "p", SkipVerify: true}}
	n := &Node{o: Options{Config: &config.Loaded{File: file}}}
	for _, service := range n.queryServices(&doors{}, api.Principal{Name: "ada"}) {
		if got, ok := service.(*endpoint.MailSettings); ok {
			want := endpoint.MailSettings{From: "pack@example", Server: "mail.example", Port: 25, Username: "u", Password: "p", SkipVerify: true}
			if *got != want {
				t.Errorf("got %+v", *got)
			}
			return
		}
	}
	t.Error("queries are told of no mail server")
}
