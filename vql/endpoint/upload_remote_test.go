package endpoint_test

import (
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"raptorpack/vql"
)

// pattern is content in which no two places look alike for long.
func pattern(size int) string {
	out := make([]byte, 0, size+20)
	for i := 0; len(out) < size; i++ {
		out = append(strconv.AppendInt(out, int64(i)*7919, 36), '\n')
	}
	return string(out[:size])
}

const s3Call = `bucket='b', endpoint=U, credentials_key='key', credentials_secret='hush'`

func TestUploadS3(t *testing.T) {
	root := tree(t, map[string]string{"small": "hello", "empty": ""})
	server := newFakeS3(t, status(503), reset)
	s := newSession(t, map[string]any{"U": server.URL, "Root": root}, quick())
	s.want(`SELECT upload_s3(file=Root + '/small', name='a b/../ü+1', s3upload_root='/root/', serverside_encryption='AES256', credentials_token='tok', `+s3Call+`) AS Up FROM scope()`,
		`{"Up":{"Path":"`+root+`/small","Size":5,"StoredSize":5,"sha256":"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","md5":"5d41402abc4b2a76b9719d911017c592",`+
			`"StoredName":"root/a b/%2E%2E/ü+1","Components":["root","a b","%2E%2E","ü+1"],"Reference":"s3://b/root/a b/%2E%2E/ü+1","Accessor":"auto","UploadId":0}}`)
	header := server.headers["root/a b/%2E%2E/ü+1"]
	if string(server.objects["root/a b/%2E%2E/ü+1"]) != "hello" || header.Get("X-Amz-Server-Side-Encryption") != "AES256" || header.Get("X-Amz-Security-Token") != "tok" {
		t.Errorf("objects %v, headers %v", server.objects, header)
	}
	s.want(`SELECT upload_s3(file=Root + '/empty', kms_encryption_key='k', `+s3Call+`).Size AS Size FROM scope()`, `{"Size":0}`)
	header = server.headers[strings.TrimPrefix(root, "/")+"/empty"]
	if header.Get("X-Amz-Server-Side-Encryption") != "aws:kms" || header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") != "k" {
		t.Errorf("headers %v", server.headers)
	}
}

func TestUploadS3SendsLargeFilesInPartsWithinBounds(t *testing.T) {
	const part = 8 << 20
	content := pattern(2*part + 12345)
	root := tree(t, map[string]string{"large": content})
	server := newFakeS3(t, nil, status(500), nil, reset)
	s := newSession(t, map[string]any{"U": server.URL, "Root": root}, quick())
	s.want(`SELECT upload_s3(file=Root + '/large', name='large', serverside_encryption='aws:kms', `+s3Call+`).sha256 AS Hash FROM scope()`, `{"Hash":"`+sha([]byte(content))+`"}`)
	if string(server.objects["large"]) != content {
		t.Errorf("the object differs: %d bytes", len(server.objects["large"]))
	}
	if server.largest > part || server.headers["large"].Get("X-Amz-Server-Side-Encryption") != "aws:kms" || len(server.parts) != 0 {
		t.Errorf("the largest body is %d, headers %v", server.largest, server.headers["large"])
	}
}

func TestUploadS3TakesABrokenUploadBack(t *testing.T) {
	root := tree(t, map[string]string{"large": pattern(8<<20 + 1)})
	for name, broken := range map[string]func(cancel func()) []func(http.ResponseWriter){
		"refused": func(func()) []func(http.ResponseWriter) { return []func(http.ResponseWriter){nil, status(403)} },
		"cancelled": func(cancel func()) []func(http.ResponseWriter) {
			return []func(http.ResponseWriter){nil, nil, func(w http.ResponseWriter) { cancel(); status(503)(w) }}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			faults := broken(cancel)
			server := newFakeS3(t, faults...)
			s := newSession(t, map[string]any{"U": server.URL, "Root": root}, quick())
			err := s.each(ctx, `SELECT upload_s3(file=Root + '/large', name='large', `+s3Call+`) AS Up FROM scope()`, func(row *vql.Dict) error {
				if v, _ := row.Get("Up"); !vql.IsNull(v) {
					t.Errorf("row %s", vql.AppendJSON(nil, row))
				}
				return nil
			})
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			if key := <-server.aborted; key != "large" || len(server.objects) != 0 {
				t.Errorf("aborted %s", key)
			}
		})
	}
}

func TestUploadsRefuseBadArguments(t *testing.T) {
	for call, want := range map[string]string{
		`upload_s3(file='x', accessor='data', name='n', bucket='b', secret='s')`:                     "named secrets are not available",
		`upload_s3(file='x', accessor='data', name='n', bucket='b', serverside_encryption='x')`:      "should be AES256 or aws:kms",
		`upload_s3(file='x', accessor='data', name='n', bucket='b', endpoint='ftp://x')`:             "should begin with https",
		`upload_s3(file='/nonexistent', name='n', bucket='b', endpoint='http://127.0.0.1:1')`:        "upload_s3: ",
		`upload_s3(file='x', accessor='data', name='/', bucket='b')`:                                 "the file has no name",
		`upload_s3(file='x', accessor='data', name='n', bucket='b', credentials_key='k')`:            "belong together",
		`upload_gcs(file='x', accessor='data', name='n', bucket='b', project='p')`:                   "should be the key of a service account",
		`upload_gcs(file='x', accessor='data', name='n', bucket='b', project='p', credentials='{}')`: "should be the key of a service account",
		`upload_azure(file='x', accessor='data', name='n', sas_url='https://x/')`:                    "should name a container",
		`upload_azure(file='x', accessor='data', name='n', sas_url='https://x/c?sig=\x01&=%zz;')`:    "upload_azure: ",
		`upload_directory(file='/nonexistent', output='/nonexistent/out')`:                           "upload_directory: ",
	} {
		s := newSession(t, nil, quick())
		s.want("SELECT "+call+" AS Up FROM scope()", `{"Up":null}`)
		s.wantLog(want)
	}
}

// serveAzure keeps block blobs below /c/.
func serveAzure(blocks map[string]string) func(*target, http.ResponseWriter, *http.Request, []byte) {
	return func(s *target, w http.ResponseWriter, r *http.Request, body []byte) {
		query := r.URL.Query()
		s.is("method", r.Method, "PUT")
		s.is("signature", query.Get("sig")+query.Get("sv"), "s+/=2020")
		s.is("version", r.Header.Get("X-Ms-Version"), "2020-10-02")
		sum := md5.Sum(body)
		s.is("md5", r.Header.Get("Content-Md5"), base64.StdEncoding.EncodeToString(sum[:]))
		switch query.Get("comp") {
		case "":
			s.is("type", r.Header.Get("X-Ms-Blob-Type"), "BlockBlob")
			s.take(r.URL.Path + " " + string(body))
		case "block":
			blocks[query.Get("blockid")] = string(body)
		case "blocklist":
			var list struct{ Latest []string }
			if err := xml.Unmarshal(body, &list); err != nil {
				s.t.Error(err)
			}
			whole := ""
			for _, id := range list.Latest {
				whole += blocks[id]
			}
			s.take(r.URL.Path + " " + sha([]byte(whole)))
		}
		w.WriteHeader(http.StatusCreated)
	}
}

func TestUploadAzure(t *testing.T) {
	content := pattern(8<<20 + 77)
	root := tree(t, map[string]string{"large": content, "small": "hello"})
	server := newTarget(t, serveAzure(map[string]string{}), status(503), nil, reset)
	s := newSession(t, map[string]any{"U": server.URL + "/c/?sv=2020&sig=s%2B%2F%3D", "Root": root}, quick())
	s.want(`SELECT upload_azure(file=Root + '/small', name='a b/small', sas_url=U).Reference AS R FROM scope()`, `{"R":"`+server.URL+`/c/a%20b/small"}`)
	s.want(`SELECT upload_azure(file=Root + '/large', name='large', sas_url=U).Size AS Size FROM scope()`, fmt.Sprintf(`{"Size":%d}`, len(content)))
	server.wantTaken("/c/a b/small hello", "/c/large "+sha([]byte(content)))
}

func TestUploadAzureKeepsItsSignatureSecret(t *testing.T) {
	server := newTarget(t, nil)
	server.Close()
	s := newSession(t, map[string]any{"U": server.URL + "/c?sig=hush"}, quick())
	s.want(`SELECT upload_azure(file='x', accessor='data', name='n', sas_url=U) AS Up FROM scope()`, `{"Up":null}`)
	s.wantLog("upload_azure: x: ask ")
	if strings.Contains(s.log(), "hush") {
		t.Errorf("the log holds the signature: %s", s.log())
	}
}

func TestUploadDirectory(t *testing.T) {
	root := tree(t, map[string]string{"src/f": "hello", "out/link": "->../elsewhere", "elsewhere/": "", "out/folder/": ""})
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := os.Chtimes(filepath.Join(root, "src/f"), at, at.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(root, "out")
	s := newSession(t, map[string]any{"Root": root, "Out": out})
	s.want(`SELECT upload_directory(file=Root + '/src/f', output=Out) AS Up FROM scope()`,
		`{"Up":{"Path":"`+root+`/src/f","Size":5,"StoredSize":5,"sha256":"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","md5":"5d41402abc4b2a76b9719d911017c592",`+
			`"StoredName":"`+out+root+`/src/f","Components":["`+strings.Join(strings.Split(root[1:], "/"), `","`)+`","src","f"],"Accessor":"auto","UploadId":0}}`)
	info, err := os.Stat(out + root + "/src/f")
	if err != nil || !info.ModTime().Equal(at.Add(time.Hour)) {
		t.Errorf("%v %v", info, err)
	}
	for name, want := range map[string]string{
		`'../../x'`:                          "x",
		`'a/.../b'`:                          "a/%2E%2E%2E/b",
		`'a\\b%'`:                            "a%5Cb%25",
		`'` + strings.Repeat("x", 300) + `'`: strings.Repeat("x", 238) + "-" + sha([]byte(strings.Repeat("x", 300)))[:16],
	} {
		s.want(`SELECT upload_directory(file='x', accessor='data', output=Out, name=`+name+`).StoredName AS N FROM scope()`, `{"N":"`+out+"/"+want+`"}`)
		if data, err := os.ReadFile(filepath.Join(out, want)); err != nil || string(data) != "x" {
			t.Errorf("%q %v", data, err)
		}
	}
	s.want(`SELECT upload_directory(file='x', accessor='data', output=Out, name='link/x') AS Up FROM scope()`, `{"Up":null}`)
	s.want(`SELECT upload_directory(file='x', accessor='data', output=Out, name='folder') AS Up FROM scope()`, `{"Up":null}`)
	s.wantLog("a folder has that name")
	if names, err := os.ReadDir(filepath.Join(root, "elsewhere")); err != nil || len(names) > 0 {
		t.Errorf("outside: %v %v", names, err)
	}
	if names, err := filepath.Glob(filepath.Join(out, ".raptorpack-*")); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
}

func TestUploadDirectoryCopiesAFileOverItself(t *testing.T) {
	root := tree(t, map[string]string{"f": "hello"})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT upload_directory(file=Root + '/f', output=Root, name='f', mtime='2020-01-02T03:04:05Z').Size AS Size FROM scope()`, `{"Size":5}`)
	data, err := os.ReadFile(filepath.Join(root, "f"))
	info, serr := os.Stat(filepath.Join(root, "f"))
	if err != nil || serr != nil || string(data) != "hello" || info.ModTime().Year() != 2020 {
		t.Errorf("%q %v %v", data, err, serr)
	}
}
