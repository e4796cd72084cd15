package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"raptorpack/api"
	"raptorpack/config"
	"raptorpack/ids"
)

func TestACollectionGoesOutAndComesIn(t *testing.T) {
	w := newWorld(t)
	key := w.collect("Linux.Sys.Users", nil)
	w.arrive(rowsOf(key, "Linux.Sys.Users", 0, `{"User":"root"}`, `{"User":"ada"}`))
	w.arrive(uploadOf(key, 0, "hello")...)
	w.arrive(endOf(key, 2, 1))
	path := w.flowsPath() + "/" + key.Flow.String() + "/zip"
	w.want(403, "reader", "GET", path, nil)
	response := w.send(config.Pair{}, "investigator", "GET", path, nil, "X-Raptorpack-Password", "secret")
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	w.check(err)
	if report := response.Trailer.Get("X-Raptorpack-Report"); response.StatusCode != http.StatusOK || !strings.Contains(report, `"whole":true`) {
		t.Fatalf("%d, report %s", response.StatusCode, report)
	}
	form, kind := form("file", "flow.zip", string(data))
	const to = "/api/v1/collections/import?hostname=Lab-7"
	for who, header := range map[string][]string{"reader": {"X-Raptorpack-Password", "secret"}, "administrator": {"X-Raptorpack-Password", "wrong"}} {
		if r := w.post(who, to, form, kind, header...); r.status != 403 && r.status != 422 {
			t.Errorf("%s: %d %s", who, r.status, r.body)
		}
	}
	var in, again api.CollectionImported
	for _, out := range []*api.CollectionImported{&in, &again} {
		r := w.post("administrator", to, form, kind, "X-Raptorpack-Password", "secret")
		if r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		r.into(t, out)
	}
	if in.Client != ids.ClientOfHost("lab-7").String() || in.Rows != 2 || in.Uploads != 1 || !in.Added || in.Known || !again.Known || again.Flow != in.Flow {
		t.Errorf("%+v, then %+v", in, again)
	}
	var rows api.Rows
	w.want(200, "reader", "GET", "/api/v1/clients/"+in.Client+"/flows/"+in.Flow+"/results", nil).into(t, &rows)
	if text, _ := json.Marshal(rows.Items); string(text) != `[{"User":"root"},{"User":"ada"}]` {
		t.Errorf("rows %s", text)
	}
	if got := w.trail.operations(); !strings.Contains(got, "administrator:client.add administrator:flow.import") || !strings.Contains(got, "investigator:flow.export") {
		t.Errorf("audit trail: %s", got)
	}
}
