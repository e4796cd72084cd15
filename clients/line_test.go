package clients_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"raptorpack/clients"
	"raptorpack/ids"
)

// maker makes snapshot lines: as most agents are, or as a hostile one may be.
type maker struct {
	t     *rapid.T
	plain bool
}

func (m maker) text(label string) string {
	usual := rapid.SampledFrom([]string{"", "web-1", "x y", "00:16:3e:00:00:01", "AC:DE:48:00:11:22"})
	odd := rapid.OneOf(usual, rapid.SampledFrom([]string{"a<b", "é\u2028", `quo"te`, `back\slash`, "tab\t"}), rapid.StringN(0, 20, 40))
	if m.plain {
		return usual.Draw(m.t, label)
	}
	return odd.Draw(m.t, label)
}

func (m maker) texts(label string) (out []string) {
	for range rapid.IntRange(0, 3).Draw(m.t, label) {
		if text := m.text("one"); text != "" || !m.plain {
			out = append(out, text)
		}
	}
	return out
}

func (m maker) number(label string) int64 {
	if m.plain {
		return rapid.Int64Range(-5, 1e17).Draw(m.t, label)
	}
	return rapid.Int64().Draw(m.t, label)
}

func (m maker) line() []byte {
	t := m.t
	_, client := madeUpKey(rapid.Uint64().Draw(t, "id"))
	host := m.text("host")
	key, metadata := fleet{}.key(1), map[string]string(nil)
	if !m.plain {
		key = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "key")
		metadata = rapid.MapOfN(rapid.String(), rapid.String(), 0, 3).Draw(t, "metadata")
	}
	line := map[string]any{
		"org": rapid.SampledFrom([]string{"", "O7"}).Draw(t, "org"), "ordinal": rapid.IntRange(0, 1<<24).Draw(t, "ordinal"), "client_id": client.String(),
		"first_seen_us": m.number("first"), "hostname": host, "fqdn": rapid.SampledFrom([]string{"", host, host + ".x", "other"}).Draw(t, "fqdn"),
		"os": m.text("os"), "release": m.text("release"), "architecture": m.text("architecture"), "client_version": m.text("version"),
		"client_name": m.text("name"), "build_time": m.text("built"), "build_url": m.text("url"), "install_time": m.number("installed"),
		"mac_addresses": m.texts("macs"), "users": m.texts("users"), "labels": m.texts("labels"), "labels_us": m.number("labelled"),
		"metadata": metadata, "interrogated_us": rapid.Int64Range(0, 5).Draw(t, "interrogated"), "public_key": key,
	}
	flow := rapid.SampledFrom([]string{"", "F.1", "F.2.H"})
	line["interrogation"], line["answered"] = flow.Draw(t, "asked"), flow.Draw(t, "answered")
	if line["answered"] == "" && line["interrogated_us"] != int64(0) {
		line["answered"] = line["interrogation"]
	}
	raw, err := json.Marshal(line)
	if err != nil {
		t.Fatal(err)
	}
	canonical, err := clients.MarshalLine(raw)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(canonical)
}

// A line that is read, by either reader, is written as encoding/json writes it.
func TestLinesAreWrittenAsTheyWereRead(t *testing.T) {
	scanned := 0
	rapid.Check(t, func(t *rapid.T) {
		raw := maker{t, rapid.Bool().Draw(t, "plain")}.line()
		parsed, err := clients.ParseLine(raw)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(raw), parsed); diff != "" {
			t.Fatal(diff)
		}
		if again, ok := clients.ScanLine(raw); ok {
			scanned++
			if diff := cmp.Diff(string(raw), again); diff != "" {
				t.Fatal(diff)
			}
		}
	})
	for i := range 200 {
		raw := fleet{200, 7}.line(i)
		if again, ok := clients.ScanLine(raw); !ok || again != string(raw) {
			t.Fatalf("a usual line was not scanned, or became something else:\n%s\n%s", raw, again)
		}
	}
	if scanned < 10 {
		t.Errorf("%d random lines were scanned: the test tells less than it should", scanned)
	}
}

// FuzzLine: what the quick reader takes, the thorough one takes as the same.
func FuzzLine(f *testing.F) {
	f.Add(fleet{1, 1}.line(0))
	f.Add([]byte(`{"org":"O1","ordinal":0,"client_id":"C.7a840418cf635f31","first_seen_us":-0,"public_key":""}`))
	f.Add([]byte(`{"ordinal":3,"deleted":true}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		quick, ok := clients.ScanLine(raw)
		if !ok {
			return
		}
		thorough, err := clients.ParseLine(raw)
		if err != nil || quick != thorough {
			t.Errorf("%q:\nquick    %s\nthorough %s, %v", raw, quick, thorough, err)
		}
	})
}

func TestRestoreRefusesWhatIsWrong(t *testing.T) {
	good := string(fleet{1, 1}.line(0)) + "\n"
	other := strings.Replace(string(fleet{1, 2}.line(0)), `"ordinal":0`, `"ordinal":7`, 1) + "\n"
	for name, snapshot := range map[string]string{
		"order":    other + good,
		"twice":    good + strings.Replace(good, `"ordinal":0`, `"ordinal":1`, 1),
		"gap":      strings.Replace(good, `"ordinal":0`, `"ordinal":17000000`, 1),
		"far":      `{"ordinal":4294967295,"deleted":true}`,
		"no id":    `{"ordinal":0}`,
		"server":   `{"ordinal":0,"client_id":"server","first_seen_us":1,"public_key":""}`,
		"flow":     `{"ordinal":0,"client_id":"C.7a840418cf635f31","interrogation":"x","public_key":""}`,
		"org":      `{"org":"../x","ordinal":0,"client_id":"C.7a840418cf635f31","public_key":""}`,
		"no JSON":  good + "{\n",
		"empty":    good + "\n" + other,
		"cut":      good[:len(good)-10],
		"too long": `{"ordinal":0,"client_id":"` + strings.Repeat("x", 17<<20),
	} {
		room := clients.New(nil)
		if err := room.Restore(strings.NewReader(snapshot)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// A snapshot is read in pieces; lines of any length, wherever they are cut, come
// out whole, and an error is told with its line.
func TestRestoreCutsAtLineEnds(t *testing.T) {
	var snapshot bytes.Buffer
	var want []string
	for i := range 1500 {
		line := string(fleet{1500, 3}.line(i))
		if i%700 == 7 {
			long := fmt.Sprintf(`"metadata":{"note":"%s"},"interrogation"`, strings.Repeat("x", 600_000))
			line = strings.Replace(line, `"interrogation"`, long, 1)
		}
		want = append(want, line)
		snapshot.WriteString(line + "\n")
	}
	all := snapshot.String()
	room := clients.New(nil)
	if err := room.Restore(strings.NewReader(strings.TrimSuffix(all, "\n"))); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := room.View().WriteTo(&got); err != nil {
		t.Fatal(err)
	}
	if got.String() != all {
		t.Error("a snapshot came out otherwise than it went in")
	}
	broken := strings.Join(want[:1210], "\n") + "\n{}x\n" + strings.Join(want[1210:], "\n")
	if err := room.Restore(strings.NewReader(broken)); err == nil || !strings.Contains(err.Error(), "line 1211:") {
		t.Errorf("error %v, want one of line 1211", err)
	}
}

// Deleted clients leave gaps, and their ordinals are never used again.
func TestRestoreKeepsGaps(t *testing.T) {
	room := clients.New(nil)
	line := strings.Replace(string(fleet{1, 1}.line(0)), `"ordinal":0`, `"ordinal":1000`, 1)
	snapshot := line + "\n" + `{"org":"","ordinal":3000,"deleted":true}` + "\n"
	if err := room.Restore(strings.NewReader(snapshot)); err != nil {
		t.Fatal(err)
	}
	h := &house{Room: room, t: t, now: noon}
	if got := h.bytes(); got != snapshot {
		t.Error(cmp.Diff(snapshot, got))
	}
	h.enrol(0)
	if r, err := room.Lookup(ids.RootOrg, id(0)); err != nil || r.Ordinal != 3001 {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := room.Lookup(ids.RootOrg, ids.Client{}); !errors.Is(err, clients.ErrUnknownClient) {
		t.Errorf("nobody: %v", err)
	}
	if page, err := room.Search(ids.RootOrg, "", 0, 10, noon); err != nil || page.Total != 2 {
		t.Errorf("%v, %v", page, err)
	}
}

// Earlier versions did not write which interrogation was answered: it was the one
// that was asked.
func TestAnsweredIsWhatWasAskedInOldSnapshots(t *testing.T) {
	room := clients.New(nil)
	var snapshot string
	for i, inquiry := range []string{`"interrogation":"F.1"`, `"interrogation":"F.1","interrogated_us":5`} {
		line := string(fleet{2, 1}.line(i))
		before, rest, _ := strings.Cut(line, `"interrogation"`)
		_, after, _ := strings.Cut(rest, `,"public_key"`)
		snapshot += before + inquiry + `,"public_key"` + after + "\n"
	}
	if err := room.Restore(strings.NewReader(snapshot)); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "F.1"} {
		r, err := room.Lookup(ids.RootOrg, fleet{2, 1}.client(t, i))
		if err != nil || r.Interrogation.String() != "F.1" || r.Answered.String() != want {
			t.Errorf("%+v, %v; want the answer to %q", r, err, want)
		}
	}
}
