package server_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"raptorpack/vql"
	"raptorpack/vql/server"
)

// bringer notes what is to be brought in.
type bringer struct{ asked []string }

func (b *bringer) Collection(_ context.Context, wish server.ImportWish, from io.Reader) (*vql.Dict, error) {
	text, err := io.ReadAll(from)
	b.asked = append(b.asked, fmt.Sprintf("%+v %s", wish, text))
	return vql.NewDict().Set("FlowId", "F.1"), err
}

func (b *bringer) Hunt(_ context.Context, from io.Reader) (*vql.Dict, error) {
	text, err := io.ReadAll(from)
	b.asked = append(b.asked, "hunt "+string(text))
	return vql.NewDict().Set("HuntId", "H.1"), err
}

func TestImportCollectionHandsTheFileOver(t *testing.T) {
	w := newWorld(t)
	b := &bringer{}
	host := w.host("ada")
	host.Imports = b
	name := filepath.Join(t.TempDir(), "a.zip")
	must(t, os.WriteFile(name, []byte("zip"), 0o600))
	s := w.session(roles{"administrator"}, nil, host)
	s.want(`SELECT import_collection(filename='`+name+`', client_id='auto', hostname='lab', password='p') AS C, import_collection(filename='`+name+`', import_type='hunt') AS H FROM scope()`,
		`{"C":{"FlowId":"F.1"},"H":{"HuntId":"H.1"}}`)
	if got := fmt.Sprint(b.asked); got != "[{Client:auto Hostname:lab Password:p} zip hunt zip]" {
		t.Errorf("asked for %s", got)
	}
	s.want(`SELECT import_collection(filename='`+name+`', import_type='x') AS C FROM scope()`, `{"C":null}`)
	s.wantLog("expected collection or hunt")
	reader := w.session(roles{"analyst"}, nil, host)
	reader.want(`SELECT import_collection(filename='`+name+`') AS C FROM scope()`, `{"C":null}`)
	reader.wantLog("COLLECT_SERVER")
	if len(b.asked) != 2 {
		t.Errorf("asked for %v", b.asked)
	}
}
