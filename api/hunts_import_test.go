package api_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"raptorpack/api"
	"raptorpack/config"
)

// post sends a body as it is.
func (w *world) post(who, path, body, kind string, header ...string) reply {
	w.t.Helper()
	return w.sendBody(http.MethodPost, who, path, body, kind, header...)
}

// finished is a hunt with two rows and an upload, and its zip.
func (w *world) finished() (path, zip string) {
	w.t.Helper()
	path = w.hunt(func(r *api.HuntRequest) { r.Description = "accounts" })
	key := w.takesPart(path)
	w.arrive(rowsOf(key, "Linux.Sys.Users", 0, `{"User":"root"}`, `{"User":"ada"}`))
	w.arrive(uploadOf(key, 1, "hello")...)
	w.arrive(endOf(key, 2, 1))
	w.want(200, "administrator", "POST", path+"/stop", nil)
	response := w.send(config.Pair{}, "investigator", "GET", path+"/zip", nil)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	w.check(err)
	if response.StatusCode != 200 || response.Trailer.Get("X-Raptorpack-Report") == "" {
		w.t.Fatalf("%d: %.200s", response.StatusCode, data)
	}
	return path, string(data)
}

func (w *world) usersIn(path string) (out []string) {
	w.t.Helper()
	var rows api.HuntRows
	w.want(200, "reader", "GET", path+"/results", nil).into(w.t, &rows)
	for _, row := range rows.Items {
		out = append(out, string(row))
	}
	return out
}

func TestAHuntIsBroughtIn(t *testing.T) {
	w := newWorld(t)
	path, zip := w.finished()
	form, kind := form("file", "hunt.zip", zip)
	const to = "/api/v1/hunts/import"
	if r := w.post("reader", to, form, kind); r.status != 403 || !strings.Contains(string(r.body), "COLLECT_SERVER") {
		t.Fatalf("reader: %d %s", r.status, r.body)
	}
	var in, again api.HuntImported
	r := w.post("administrator", to+"?description=from+afar", form, kind, "Idempotency-Key", "k")
	if r.status != 200 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	r.into(t, &in)
	if r = w.post("administrator", to+"?description=from+afar", form, kind, "Idempotency-Key", "k"); r.status != 200 {
		t.Fatalf("the same again: %d %s", r.status, r.body)
	}
	r.into(t, &again)
	if in.Rows != 2 || in.Uploads != 1 || len(in.Skipped) != 0 || again.Hunted != in.Hunted {
		t.Fatalf("%+v, then %+v", in, again)
	}
	there := "/api/v1/hunts/" + in.Hunt
	h, was := w.showHunt(there), w.showHunt(path)
	if h.State != "archived" || h.Description != "from afar" || h.Creator != "administrator" || h.Rows != 2 || h.Uploads != 1 ||
		h.Clients["completed"] != 1 || h.Clients["with_results"] != 1 || h.Flows != 1 || h.Origin.Hunt != was.ID || h.Origin.Creator != was.Creator {
		t.Errorf("%+v, origin %+v", h, h.Origin)
	}
	if was.Origin != nil {
		t.Errorf("a hunt of our own has the origin %+v", was.Origin)
	}
	if got, want := w.usersIn(there), w.usersIn(path); len(got) != 2 || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("rows %s, were %s", got, want)
	}
	for query, n := range map[string]int{"": 1, "?set=completed": 1, "?set=errored": 0} {
		var members api.List[api.HuntClient]
		w.want(200, "reader", "GET", there+"/clients"+query, nil).into(t, &members)
		if len(members.Items) != n || n > 0 && (members.Items[0].Hostname != "web-1" || members.Items[0].Rows != 2) {
			t.Errorf("clients%s: %+v", query, members)
		}
	}
	w.want(409, "administrator", "POST", there+"/stop", nil)
	w.want(200, "administrator", "DELETE", there, nil)
	if got := w.trail.operations(); !strings.Contains(got, "administrator:hunt.import administrator:hunt.delete") {
		t.Errorf("audit trail: %s", got)
	}
}

func TestABadZipIsNotBroughtIn(t *testing.T) {
	w := newWorld(t)
	_, zip := w.finished()
	for name, text := range map[string]string{
		"nothing":  "",
		"no zip":   "hello",
		"cut off":  zip[:len(zip)/2],
		"flipped":  zip[:200] + "\x00\x00\x00\x00" + zip[204:],
		"appended": zip + strings.Repeat("x", 1<<17),
	} {
		body, kind := form("file", "hunt.zip", text)
		if r := w.post("administrator", "/api/v1/hunts/import", body, kind); r.status != 422 {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	var list api.List[api.Hunt]
	w.want(200, "reader", "GET", "/api/v1/hunts", nil).into(t, &list)
	if len(list.Items) != 1 {
		t.Errorf("%d hunts", len(list.Items))
	}
}
