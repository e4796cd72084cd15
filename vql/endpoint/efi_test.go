package endpoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"raptorpack/vql"
)

func TestEFIVariables(t *testing.T) {
	folder := t.TempDir()
	for name, data := range map[string]string{
		"Boot0001-8be4df61-93ca-11d2-aa0d-00e098032b8c": "\x07\x00\x00\x00value", "Short-8be4df61-93ca-11d2-aa0d-00e098032b8c": "x", "readme": "",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	engine, err := vql.NewEngine(Functions(), Plugins())
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	scope := engine.NewScope(vql.SessionOptions{Log: func(_, message string) { log.WriteString(message) }})
	defer scope.Close()
	list := func(folder string, args efiArgs) (string, error) {
		var out strings.Builder
		err := listEFI(t.Context(), scope, folder, &args, func(row vql.Value) error {
			out.Write(vql.AppendJSON(nil, row))
			return nil
		})
		return out.String(), err
	}
	const guid = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	for _, c := range []struct {
		args efiArgs
		want string
	}{
		{efiArgs{Value: true, Name: "Boot0001"}, `{"Namespace":"` + guid + `","Name":"Boot0001","Value":"value"}`},
		{efiArgs{Value: true, Name: "Short"}, `{"Namespace":"` + guid + `","Name":"Short","Value":null}`},
		{efiArgs{Name: "Boot0001", Namespace: "{" + strings.ToUpper(guid) + "}"}, `{"Namespace":"` + guid + `","Name":"Boot0001","Value":null}`},
		{efiArgs{Namespace: "other"}, ``},
	} {
		if got, err := list(folder, c.args); got != c.want || err != nil {
			t.Errorf("%+v: got %s, %v", c.args, got, err)
		}
	}
	if !strings.Contains(log.String(), "Short-"+guid+": unexpected EOF") {
		t.Errorf("log: %s", log.String())
	}
	if _, err := list(filepath.Join(folder, "none"), efiArgs{}); err == nil || !strings.Contains(err.Error(), "shows no EFI variables") {
		t.Errorf("without firmware: %v", err)
	}
}
