package pool_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"raptorpack/internal/testkit"
	"raptorpack/pool"
)

func TestAllAgentsEnrolAndAreHostsOfTheirOwn(t *testing.T) {
	const clients = 20
	s := serve(t)
	p := s.agents(clients, nil)
	names, macs, addresses, systems := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]int{}
	for _, c := range s.interrogated(p, clients) {
		names[c.Hostname], macs[c.MACs[0]] = true, true
		systems[c.OS]++
		if c.OS == "linux" && len(c.Users) == 0 {
			t.Errorf("%s has no users", c.Hostname)
		}
		if !c.Online {
			t.Errorf("%s is not online", c.Hostname)
		}
		host, _, _ := strings.Cut(c.Address, ":")
		addresses[host] = true
	}
	if len(names) != clients || len(macs) != clients || len(addresses) != clients {
		t.Errorf("%d names, %d MAC addresses, %d source addresses of %d clients", len(names), len(macs), len(addresses), clients)
	}
	if systems["linux"] != 10 || systems["windows"] != 8 || systems["darwin"] != 2 {
		t.Errorf("systems %v", systems)
	}
	testkit.Eventually(t, "the pool counts them", func() (any, bool) {
		status := p.Status()
		return status, status.Enrolled == clients && status.Connected == clients && status.Delivered == clients && status.Sockets >= 2*clients
	})
}

func TestCollectionsRunOnEachHost(t *testing.T) {
	const clients = 20
	s := serve(t)
	p := s.agents(clients, nil)
	all := s.interrogated(p, clients)
	before := p.Status().Flows
	flows := map[string]string{}
	for _, c := range all {
		var started struct {
			Flow string `json:"flow_id"`
		}
		s.call(http.MethodPost, "/clients/"+c.ID+"/flows", map[string]any{"artifacts": []any{map[string]any{"name": "Linux.Sys.Pslist"}}}, &started)
		flows[c.ID] = started.Flow
	}
	lists := map[string]string{}
	for _, c := range all {
		path := "/clients/" + c.ID + "/flows/" + flows[c.ID]
		var flow struct {
			State string
			Rows  int64
		}
		testkit.Eventually(t, "the collection ends", func() (any, bool) {
			s.call(http.MethodGet, path, nil, &flow)
			return flow, flow.State == "completed" || flow.State == "errored"
		})
		if flow.State != "completed" || (c.OS == "linux") != (flow.Rows > 0) {
			t.Errorf("%s (%s): %+v", c.Hostname, c.OS, flow)
		}
		if c.OS != "linux" {
			continue
		}
		var page struct{ Items []map[string]any }
		s.call(http.MethodGet, path+"/results?name=Linux.Sys.Pslist&limit=1000", nil, &page)
		print := fmt.Sprint(page.Items)
		if other, ok := lists[print]; ok {
			t.Errorf("%s and %s have the same processes", other, c.Hostname)
		}
		lists[print] = c.Hostname
	}
	testkit.Eventually(t, "the pool counts the flows", func() (any, bool) {
		status := p.Status()
		return status, status.Flows-before == clients && status.FailedFlows == 0 && status.Rows > 0
	})
	if flow := p.Stats().Flow.Latency(); flow.Count < 2*clients || flow.P50 == 0 || flow.P99 != 0 {
		t.Errorf("%+v", flow)
	}
}

func TestPollingAgentsUploadNoise(t *testing.T) {
	const size = 3<<20 + 5
	s := serve(t)
	p := s.agents(1, func(o *pool.Options) { o.Polling, o.Bulk = true, map[string]int64{"noise.bin": size} })
	c := s.interrogated(p, 1)[0]
	var started struct {
		Flow string `json:"flow_id"`
	}
	s.call(http.MethodPut, "/artifacts", map[string]string{"text": "name: Custom.Pool.Upload\nsources:\n  - query: SELECT upload(file='/srv/bulk/noise.bin') AS Upload FROM scope()\n"}, &struct{}{})
	s.call(http.MethodPost, "/clients/"+c.ID+"/flows", map[string]any{"artifacts": []any{map[string]any{"name": "Custom.Pool.Upload"}}}, &started)
	var flow struct {
		State, Error string
		Bytes        int64 `json:"upload_bytes"`
	}
	testkit.Eventually(t, "the upload ends", func() (any, bool) {
		s.call(http.MethodGet, "/clients/"+c.ID+"/flows/"+started.Flow, nil, &flow)
		return flow, flow.State == "completed" || flow.State == "errored"
	})
	if flow.State != "completed" || flow.Bytes != size {
		t.Errorf("%+v", flow)
	}
}
