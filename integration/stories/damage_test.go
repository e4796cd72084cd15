package stories_test

import (
	"encoding/binary"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rowsPage is what the door says of stored rows.
type rowsPage struct {
	Items []struct {
		N int64
	} `json:"items"`
	Total int64 `json:"total"`
	Holes []struct {
		Start int64 `json:"start"`
		End   int64 `json:"end"`
	} `json:"holes"`
	Damage []struct {
		Path   string `json:"path"`
		Offset int64  `json:"offset"`
		Bytes  int64  `json:"bytes"`
		Kind   string `json:"kind"`
	} `json:"damage"`
}

func (c *collection) read() rowsPage {
	c.a.p.t.Helper()
	var page rowsPage
	if err := c.a.p.get(c.path()+"/results?limit=10000&name="+numbersName, &page); err != nil {
		c.a.p.t.Fatal(err)
	}
	return page
}

// flip changes one byte of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := file.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// inRows returns a place of a segment where rows lie, behind so much of the file.
// Between them stand the headers of members, which a reader that knows the file
// does not read again (docs/storage-format.md has the places).
func inRows(t *testing.T, path string, behind int64) int64 {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < int64(len(text)); {
		header := 12 + int64(binary.LittleEndian.Uint16(text[at+10:]))
		length := int64(binary.LittleEndian.Uint32(text[at+18:]))
		if at+length > behind {
			return at + header + (length-header)/2
		}
		at += length
	}
	t.Fatalf("%s has no member behind %d", path, behind)
	return 0
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// wantPrefix checks that a page holds rows in order, each of them as it was
// produced, that some are missing, and that the damage is told with file and place.
func wantPrefix(t *testing.T, page rowsPage, segment string, rows int64, kinds ...string) {
	t.Helper()
	if len(page.Items) == 0 || int64(len(page.Items)) >= rows {
		t.Fatalf("%d rows of %d are served from a damaged segment", len(page.Items), rows)
	}
	for i, row := range page.Items[:len(page.Items)/4] {
		if row.N != int64(i) {
			t.Fatalf("row %d holds %d", i, row.N)
		}
	}
	if len(page.Damage) != 1 {
		t.Fatalf("damage told: %+v", page.Damage)
	}
	d := page.Damage[0]
	if !strings.HasSuffix(segment, d.Path) || d.Offset <= 0 || d.Bytes <= 0 || !slices.Contains(kinds, d.Kind) {
		t.Errorf("damage of %s is told as %+v", segment, d)
	}
}

func TestFlippedByteInASegmentIsToldAndTheRestServed(t *testing.T) {
	t.Parallel()
	p := launch(t, options{})
	a := p.agent(0)
	c := a.collect(someRows)
	c.complete()
	if got := len(c.read().Items); got != someRows {
		t.Fatalf("%d rows before the damage", got)
	}
	segment := slices.MaxFunc(c.segments(), func(x, y string) int { return int(sizeOf(t, x) - sizeOf(t, y)) })
	flip(t, segment, inRows(t, segment, sizeOf(t, segment)*3/4))

	// The node has seen the file when it was good: it misses one member.
	warm := c.read()
	if len(warm.Damage) != 1 || warm.Damage[0].Kind != "member" || len(warm.Items) >= someRows || len(warm.Holes) == 0 {
		t.Errorf("with a warm index: %d rows, damage %+v, holes %+v", len(warm.Items), warm.Damage, warm.Holes)
	}
	// A fresh look ends the file at the first member that does not hold.
	p.restart()
	wantPrefix(t, c.read(), segment, someRows, "checksum", "torn")
	p.waitLog("segment has damage", filepath.Base(segment), "offset=")
	p.waitMetric(1, "raptorpack_filestore_read_damage_total")
}

func TestCutSegmentTailIsToldAndTheRestServed(t *testing.T) {
	t.Parallel()
	p := launch(t, options{})
	a := p.agent(0)
	c := a.collect(someRows)
	c.complete()
	segment := slices.MaxFunc(c.segments(), func(x, y string) int { return int(sizeOf(t, x) - sizeOf(t, y)) })
	if err := os.Truncate(segment, sizeOf(t, segment)-7); err != nil {
		t.Fatal(err)
	}
	p.restart()
	wantPrefix(t, c.read(), segment, someRows, "torn")
	// What was damaged is over; what comes next is whole again.
	next := a.collect(someRows)
	next.complete()
}

// ledgerFile is the one file of the newest epoch that holds entries.
func (p *pack) ledgerFile() string {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(p.store, "ledger", "epoch-*", "*"))
	if err != nil || len(files) == 0 {
		p.t.Fatalf("ledger files: %v, %v", files, err)
	}
	return slices.Max(files)
}

func TestCutLedgerTailIsAnOrdinaryStart(t *testing.T) {
	t.Parallel()
	p := launch(t, options{})
	a := p.agent(0)
	c := a.collect(someRows)
	c.complete()
	for i := range 3 {
		if err := p.label(a.id, "label-"+strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.end(); err != nil {
		t.Fatal(err)
	}
	file := p.ledgerFile()
	if err := os.Truncate(file, sizeOf(t, file)-10); err != nil {
		t.Fatal(err)
	}
	p.start()
	p.waitLog("ledger has a torn tail", filepath.Base(file), "bytes=")
	p.waitMetric(1, "raptorpack_replication_torn_bytes_total")
	var client struct{ Labels []string }
	if err := p.get("/clients/"+a.id, &client); err != nil || !slices.Contains(client.Labels, "label-1") {
		t.Errorf("the client is %+v, %v", client, err)
	}
	c.complete()
	a.waitOnline()
	a.collect(100).complete()
}

func TestDamageInTheMiddleOfTheLedgerRefusesToStart(t *testing.T) {
	t.Parallel()
	p := launch(t, options{})
	a := p.agent(0)
	for i := range 20 {
		if err := p.label(a.id, "label-"+strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	a.stop()
	if err := p.end(); err != nil {
		t.Fatal(err)
	}
	file := p.ledgerFile()
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	flip(t, file, int64(len(good)/2))
	_, err = p.compose()
	if err == nil {
		t.Fatal("the node started on a damaged ledger")
	}
	relative := strings.TrimPrefix(file, p.store+"/")
	if !hasAll(err.Error(), []string{relative, "damaged", "bytes from"}) {
		t.Errorf("the error does not name file and place: %v", err)
	}
	// A refused start leaves the name free and changes nothing.
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	p.start()
	code, text, err := p.call(http.MethodGet, "/clients/"+a.id, nil)
	var client struct{ Labels []string }
	if err != nil || code != http.StatusOK || json.Unmarshal(text, &client) != nil || len(client.Labels) != 20 {
		t.Errorf("after the repair: %d %s %v", code, text, err)
	}
}
