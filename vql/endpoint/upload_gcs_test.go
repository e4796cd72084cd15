package endpoint_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// fakeGCS is the sign-in of Google and its storage, which keeps only half of what it
// gets before each fault.
type fakeGCS struct {
	*target
	key    *rsa.PublicKey
	kept   []byte
	faults []string // for the PUTs: lose the answer, or keep half
	done   bool
}

func (f *fakeGCS) serve(s *target, w http.ResponseWriter, r *http.Request, body []byte) {
	switch {
	case r.Host == "oauth2.googleapis.com":
		f.signIn(w, body)
	case r.Method == http.MethodPost:
		s.is("session", r.Host+r.URL.String(), "storage.googleapis.com/upload/storage/v1/b/buck/o?name=a+b%2Fc&uploadType=resumable")
		s.is("authorization", r.Header.Get("Authorization"), "Bearer bearer")
		w.Header().Set("Location", "https://storage.googleapis.com/session?id=1")
	default:
		s.is("session", r.Method+r.URL.String(), "PUT/session?id=1")
		f.put(w, r.Header.Get("Content-Range"), body)
	}
}

func (f *fakeGCS) signIn(w http.ResponseWriter, body []byte) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		f.t.Error(err)
	}
	f.is("grant", form.Get("grant_type"), "urn:ietf:params:oauth:grant-type:jwt-bearer")
	parts := strings.Split(form.Get("assertion"), ".")
	if len(parts) != 3 {
		f.t.Fatalf("assertion %q", form.Get("assertion"))
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		f.t.Error(err)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(f.key, crypto.SHA256, sum[:], signature); err != nil {
		f.t.Error(err)
	}
	var claims struct {
		Iss, Aud, Scope string
		Exp             int64
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		f.t.Error(err)
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		f.t.Error(err)
	}
	f.is("claims", claims.Iss+" "+claims.Aud+" "+claims.Scope, "me@p https://oauth2.googleapis.com/token https://www.googleapis.com/auth/devstorage.read_write")
	if time.Unix(claims.Exp, 0).Before(time.Now()) {
		f.t.Error("the assertion has ended")
	}
	fmt.Fprint(w, `{"access_token":"bearer"}`)
}

func (f *fakeGCS) put(w http.ResponseWriter, span string, body []byte) {
	var from, to int
	total := -1
	if _, err := fmt.Sscanf(span, "bytes %d-%d/%d", &from, &to, &total); err != nil {
		if _, err := fmt.Sscanf(span, "bytes %d-%d/*", &from, &to); err != nil {
			from, to = len(f.kept), len(f.kept)-1
			_, _ = fmt.Sscanf(span, "bytes */%d", &total) // or bytes */*
		}
	}
	if from != len(f.kept) || to-from+1 != len(body) || total < 0 && len(body)%(256<<10) != 0 {
		f.t.Errorf("%d bytes with range %s, %d are kept", len(body), span, len(f.kept))
	}
	fault := ""
	if len(body) > 0 && len(f.faults) > 0 {
		fault, f.faults = f.faults[0], f.faults[1:]
	}
	if fault != "" {
		body = body[:len(body)/2/(256<<10)*(256<<10)]
	}
	f.kept = append(f.kept, body...)
	switch {
	case fault == "lose":
		reset(w)
		return
	case len(f.kept) == total:
		f.done = true
		return
	}
	if len(f.kept) > 0 {
		w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", len(f.kept)-1))
	}
	w.WriteHeader(http.StatusPermanentRedirect)
}

func serviceAccount(t *testing.T) (string, *rsa.PublicKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{
		"client_email": "me@p", "private_key_id": "kid", "private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text), &key.PublicKey
}

func TestUploadGCS(t *testing.T) {
	credentials, public := serviceAccount(t)
	for name, c := range map[string]struct {
		content string
		faults  []string
	}{
		"empty":               {"", nil},
		"small":               {"hello", nil},
		"an exact part":       {pattern(8 << 20), nil},
		"parts and faults":    {pattern(16<<20 + 5), []string{"", "lose", "half", "half", "lose"}},
		"the last goes wrong": {pattern(3 << 20), []string{"lose"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := tree(t, map[string]string{"f": c.content})
			f := &fakeGCS{key: public, faults: c.faults}
			server, settings := newCloud(t, f.serve, status(503))
			f.target = server
			s := newSession(t, map[string]any{"Root": root, "Credentials": credentials}, settings)
			s.want(`SELECT upload_gcs(file=Root + '/f', name='a b/c', bucket='buck', project='p', credentials=Credentials).sha256 AS Hash FROM scope()`,
				`{"Hash":"`+sha([]byte(c.content))+`"}`)
			if !f.done || string(f.kept) != c.content {
				t.Errorf("done %v, %d of %d bytes, log %s", f.done, len(f.kept), len(c.content), s.log())
			}
		})
	}
}
