package server_test

import (
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

// config and _SessionId stand in every session, also in artifacts that a query calls,
// and what lets clients enrol is not in them.
func TestEachSessionKnowsTheClientsConfiguration(t *testing.T) {
	w := newWorld(t)
	s := w.as("rex", "reader")
	s.want(`SELECT config.server_urls AS U, config.Version.Name AS N, config.Labels AS L, _SessionId AS S FROM scope()`,
		`{"U":["https://one/"],"N":"raptorpack","L":[],"S":""}`)
	s.want(`SELECT config FROM scope() WHERE serialize(item=config) =~ 'n0nce'`)
	s.want(`LET _ <= set(item=config, field='server_urls', value='spoilt') SELECT 1 AS A FROM scope()`, `{"A":1}`)
	w.as("rex", "reader").want(`SELECT config.server_urls AS U FROM scope()`, `{"U":["https://one/"]}`)
	s.want(`LET config <= 'mine' SELECT config FROM scope()`, `{"config":"mine"}`)
	if strings.Contains(s.log(), "not found") {
		t.Errorf("the log says %s", s.log())
	}
}

func TestDownloadsAreListedWithWhatTheyAreOf(t *testing.T) {
	w := newHuntWorld(t)
	key, hunt := w.flowWithUpload(), w.hunt("Linux.Test.Procs")
	s := w.admin()
	flow := fmt.Sprintf("get_flow(client_id='%s', flow_id='%s').AvailableDownloads", key.Client, key.Flow)
	zips := `stats.available_downloads`
	s.want(`SELECT `+flow+` AS D FROM scope()`, `{"D":[]}`)
	s.want(`SELECT `+zips+` AS D FROM hunts(hunt_id='`+hunt.Hunt.String()+`')`, `{"D":[]}`)
	of := filestore.FlowDownloadsDir(key.Org, key.Client, key.Flow)
	for _, name := range []string{path.Join(of, "a.zip"), path.Join(of, ".tmp-b.zip"), path.Join(filestore.HuntDownloadsDir(ids.RootOrg, hunt.Hunt), "c.zip")} {
		must(t, w.store.MkdirAll(t.Context(), path.Dir(name)))
		must(t, w.store.ReplaceFile(t.Context(), name, []byte("zip")))
	}
	s.want(`SELECT * FROM foreach(row=`+flow+`, query={SELECT name, path, size, date > 1700000000 AS New FROM scope()})`,
		`{"name":"a.zip","path":"`+of+`/a.zip","size":3,"New":true}`)
	s.want(`SELECT `+zips+`[0].name AS N FROM hunts(hunt_id='`+hunt.Hunt.String()+`')`, `{"N":"c.zip"}`)
	s.want(`SELECT hunt_info(hunt_id='`+hunt.Hunt.String()+`').`+zips+`[0].size AS N FROM scope()`, `{"N":3}`)
}

func TestClientsTellWhenAHuntLastRanOnThem(t *testing.T) {
	w := newHuntWorld(t)
	w.start(w.one, flows.Artifact{Name: "Linux.Test.Procs"}) // by hand
	query := `SELECT last_hunt_timestamp AS T FROM clients(client_id='` + w.one.String() + `')`
	w.admin().want(query, `{"T":0}`)
	key := w.hunt("Linux.Test.Procs", w.one)
	f, err := w.flows.Flow(flowOf(key, w.one))
	must(t, err)
	w.admin().want(query, fmt.Sprintf(`{"T":%d}`, f.Created.UnixMicro()))
}

func TestLinesOfEventLogsBeginWithTheirOwnColumns(t *testing.T) {
	w := newWorld(t)
	w.watchLogins()
	m := logLine("hello")
	m.SessionId, m.LogMessage.Artifact, m.LogMessage.Level = ids.Monitoring.String(), "Linux.Test.Logins/SSH", "INFO"
	must(t, w.flows.Ingest(t.Context(), flows.Peer{Client: w.one, Received: time.Now()}, []*wirepb.VeloMessage{m}))
	got := w.as("rex", "reader").rows(`SELECT * FROM monitoring_logs(client_id='%s', artifact='Linux.Test.Logins', source='SSH')`, w.one)
	if len(got) != 1 || !strings.HasPrefix(got[0], `{"client_time":1,"level":"INFO","message":"hello","_ts":`) ||
		!strings.HasSuffix(got[0], `,"ClientId":"`+w.one.String()+`"}`) {
		t.Errorf("rows %q", got)
	}
}

func TestFlowsOfAnUnknownClientAreToldInTheLog(t *testing.T) {
	w := newWorld(t)
	s := w.admin()
	s.want(`SELECT * FROM flows(client_id='server')`)
	if s.log() != "" {
		t.Errorf("the log says %s", s.log())
	}
	s.want(`SELECT * FROM flows(client_id='C.00000000000000ff')`)
	s.wantLog("unknown client")
}
