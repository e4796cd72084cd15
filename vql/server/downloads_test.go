package server_test

import (
	"context"
	"fmt"
	"testing"

	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/vql/server"
)

// maker notes which downloads are asked for.
type maker struct{ asked []string }

func (m *maker) OfFlow(_ context.Context, key flows.Key, o server.DownloadOptions) (string, error) {
	m.asked = append(m.asked, fmt.Sprintf("%s %+v", key.Flow, o))
	return "downloads/a.zip", nil
}

func (m *maker) OfHunt(_ context.Context, key hunts.Key, o server.DownloadOptions) (string, error) {
	m.asked = append(m.asked, fmt.Sprintf("%s %+v", key.Hunt, o))
	return "downloads/b.zip", nil
}

func TestDownloadsAreAskedForByWhoMay(t *testing.T) {
	w := newHuntWorld(t)
	key, hunt := w.flowWithUpload(), w.hunt("Linux.Test.Procs")
	m := &maker{}
	host := w.host("ada")
	host.Downloads = m
	s := w.session(roles{"analyst"}, nil, host)
	flow := fmt.Sprintf("client_id='%s', flow_id='%s'", key.Client, key.Flow)
	s.want(`SELECT create_flow_download(`+flow+`, wait=TRUE, password='p', format='json', expand_sparse=TRUE, name='n', template='t') AS P FROM scope()`, `{"P":"downloads/a.zip"}`)
	s.wantLog("template has no effect")
	s.want(`SELECT create_hunt_download(hunt_id='`+hunt.Hunt.String()+`', only_combined=TRUE, base='b') AS P FROM scope()`, `{"P":"downloads/b.zip"}`)
	want := fmt.Sprintf("[%s %+v %s %+v]", key.Flow, server.DownloadOptions{Name: "n", Password: "p", Format: "json", Expand: true, Wait: true},
		hunt.Hunt, server.DownloadOptions{Name: "b", RowsOnly: true})
	if got := fmt.Sprint(m.asked); got != want {
		t.Errorf("asked for %s, expected %s", got, want)
	}
	if len(w.audit) != 2 {
		t.Errorf("audit has %v", w.audit)
	}
	reader := w.session(roles{"reader"}, nil, host)
	reader.want(`SELECT create_flow_download(`+flow+`) AS P FROM scope()`, `{"P":null}`)
	reader.wantLog("PREPARE_RESULTS")
	s.want(`SELECT create_flow_download(client_id='`+key.Client.String()+`', flow_id='F.NONE') AS P FROM scope()`, `{"P":null}`)
	s.wantLog("no such flow")
	if len(m.asked) != 2 {
		t.Errorf("asked for %v", m.asked)
	}
}
