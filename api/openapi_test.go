package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

const golden = "openapi.json"

func TestTheOpenAPIFileIsFresh(t *testing.T) {
	w := newWorld(t)
	text, err := w.server.OpenAPI()
	w.check(err)
	var pretty bytes.Buffer
	w.check(json.Indent(&pretty, text, "", " "))
	pretty.WriteByte('\n')
	if *update {
		w.check(os.WriteFile(golden, pretty.Bytes(), 0o644))
	}
	kept, err := os.ReadFile(golden)
	w.check(err)
	if !bytes.Equal(kept, pretty.Bytes()) {
		t.Errorf("%s is stale: go test ./api -run OpenAPI -update", golden)
	}
	served := w.want(200, "reader", "GET", "/api/v1/openapi.json", nil)
	if !bytes.Equal(bytes.TrimSpace(served.body), bytes.TrimSpace(text)) {
		t.Error("the served document differs")
	}
}

// document is what the test reads of an OpenAPI document.
type document struct {
	OpenAPI string                     `json:"openapi"`
	Paths   map[string]map[string]any  `json:"paths"`
	Parts   map[string]json.RawMessage `json:"components"`
}

func TestTheOpenAPIDocumentHoldsTogether(t *testing.T) {
	w := newWorld(t)
	text, err := w.server.OpenAPI()
	w.check(err)
	var d document
	w.check(json.Unmarshal(text, &d))
	if !strings.HasPrefix(d.OpenAPI, "3.1") || len(d.Paths) < 15 {
		t.Fatalf("version %s, %d paths", d.OpenAPI, len(d.Paths))
	}
	seen := map[string]string{}
	for path, operations := range d.Paths {
		for method, operation := range operations {
			checkOperation(t, seen, path, method, operation.(map[string]any))
		}
	}
	var whole any
	w.check(json.Unmarshal(text, &whole))
	references(whole, func(reference string) {
		at := whole
		for _, part := range strings.Split(strings.TrimPrefix(reference, "#/"), "/") {
			object, _ := at.(map[string]any)
			at = object[part]
		}
		if at == nil {
			t.Errorf("reference %s leads nowhere", reference)
		}
	})
}

func checkOperation(t *testing.T, seen map[string]string, path, method string, operation map[string]any) {
	t.Helper()
	id, _ := operation["operationId"].(string)
	if id == "" || operation["summary"] == nil || operation["responses"] == nil {
		t.Errorf("%s %s lacks id, summary or responses", method, path)
	}
	if other := seen[id]; other != "" {
		t.Errorf("%s is the id of %s %s and of %s", id, method, path, other)
	}
	seen[id] = method + " " + path
	inPath := map[string]bool{}
	headers := map[string]bool{}
	parameters, _ := operation["parameters"].([]any)
	for _, p := range parameters {
		p := p.(map[string]any)
		if p["in"] == "path" {
			inPath[p["name"].(string)] = true
		}
		if p["in"] == "header" {
			headers[p["name"].(string)] = true
		}
	}
	for _, part := range strings.Split(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok && !inPath[strings.TrimSuffix(name, "}")] {
			t.Errorf("%s %s does not declare %s", method, path, part)
		}
	}
	keyless := strings.HasSuffix(path, "/sign-in") || strings.HasSuffix(path, "/sign-out")
	if method != "get" && !keyless && !headers["Idempotency-Key"] {
		t.Errorf("%s %s takes no Idempotency-Key", method, path)
	}
}

// references calls found for each $ref.
func references(v any, found func(string)) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if text, ok := value.(string); ok && key == "$ref" {
				found(text)
			}
			references(value, found)
		}
	case []any:
		for _, value := range v {
			references(value, found)
		}
	}
}
