package endpoint

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"raptorpack/internal/retry"
	"raptorpack/vql"
)

type uploadGCSArgs struct {
	File        *vql.Path `vql:"file,required" doc:"The file to send."`
	Name        string    `vql:"name" doc:"The object's name (the file's path)."`
	Accessor    string    `vql:"accessor" doc:"The accessor to open the file with (auto)."`
	Bucket      string    `vql:"bucket,required" doc:"The bucket."`
	Project     string    `vql:"project,required" doc:"The bucket's project; taken for compatibility, a bucket's name alone says which it is."`
	Credentials string    `vql:"credentials" doc:"The key of a service account, in JSON."`
}

const (
	gcsUploads = "https://storage.googleapis.com/upload/storage/v1/b/"
	gcsScope   = "https://www.googleapis.com/auth/devstorage.read_write"
	// gcsPart is what is held and sent at a time; all but the last are multiples of 256 KiB.
	gcsPart = 8 << 20
)

var (
	errServiceAccount = errors.New("credentials should be the key of a service account in JSON")
	errSession        = errors.New("the answer names no upload session")
	errResume         = errors.New("the target kept other bytes than were sent")
)

var uploadGCSFunction = vql.NewFunction(vql.Spec{
	Name: "upload_gcs", Permission: "NETWORK",
	Doc: "Sends a file to a bucket of Google Cloud Storage. Gives the file's size and hashes, or NULL.",
}, func(ctx context.Context, scope *vql.Scope, args *uploadGCSArgs) (vql.Value, error) {
	account, err := readServiceAccount(args.Credentials)
	if err != nil {
		return nil, err
	}
	name, err := objectName(scope, args.Accessor, args.File, args.Name, "")
	if err != nil {
		return nil, err
	}
	u := &gcsUpload{bucket: args.Bucket, name: name}
	if u.out, err = newOutbound(scope, outboundOptions{}); err != nil {
		return nil, err
	}
	defer u.out.close()
	return sendFile(ctx, scope, args.Accessor, args.File, name, func(file *outgoing) (string, error) {
		return "gs://" + args.Bucket + "/" + name, u.send(ctx, account, file)
	})
})

// serviceAccount is what we need of a service account's key file.
type serviceAccount struct {
	Email    string `json:"client_email"`
	KeyID    string `json:"private_key_id"`
	PEM      string `json:"private_key"`
	TokenURI string `json:"token_uri"`

	key *rsa.PrivateKey
}

func readServiceAccount(text string) (*serviceAccount, error) {
	var a serviceAccount
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return nil, errServiceAccount // the cause could hold parts of the key
	}
	if a.TokenURI == "" {
		a.TokenURI = "https://oauth2.googleapis.com/token"
	}
	if _, err := webURL(a.TokenURI); err != nil {
		return nil, fmt.Errorf("%w: token_uri: %w", errServiceAccount, err)
	}
	block, _ := pem.Decode([]byte(a.PEM))
	if block == nil || a.Email == "" {
		return nil, errServiceAccount
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: private_key is no PKCS 8", errServiceAccount)
	}
	var ok bool
	if a.key, ok = key.(*rsa.PrivateKey); !ok {
		return nil, fmt.Errorf("%w: private_key should be RSA", errServiceAccount)
	}
	return &a, nil
}

// assertion is the signed claim of RFC 7523 that a token is given for.
func (a *serviceAccount) assertion(now time.Time) (string, error) {
	head, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": a.KeyID})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": a.Email, "scope": gcsScope, "aud": a.TokenURI, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// gcsUpload sends one file by a resumable upload.
type gcsUpload struct {
	out          *outbound
	bucket, name string
	session      string // the URL of the upload, which is all it takes to go on with it
	at           int64  // how much the target has
}

func (u *gcsUpload) send(ctx context.Context, account *serviceAccount, file *outgoing) error {
	if err := u.begin(ctx, account); err != nil {
		return err
	}
	buf, data, last, err := file.first(gcsPart)
	for {
		if err != nil {
			return err
		}
		if err := u.part(ctx, data, last); err != nil {
			return err
		}
		if last {
			return nil
		}
		data, last, err = file.next(buf)
	}
}

func (u *gcsUpload) begin(ctx context.Context, account *serviceAccount) error {
	var token *bearerToken
	for try := 1; ; try++ {
		assertion, err := account.assertion(time.Now())
		if err != nil {
			return err
		}
		form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
		if token, err = u.out.token(ctx, account.TokenURI, form); err == nil {
			break
		}
		if !u.again(ctx, try, err) {
			return fmt.Errorf("sign in: %w", err)
		}
	}
	address := gcsUploads + url.PathEscape(u.bucket) + "/o?" + url.Values{"uploadType": {"resumable"}, "name": {u.name}}.Encode()
	answer, err := u.out.ask(ctx, func() (*http.Request, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, http.NoBody)
		if err == nil {
			request.Header.Set("Authorization", "Bearer "+token.text)
		}
		return request, err
	})
	if err != nil {
		return fmt.Errorf("begin the upload: %w", asFileError(err))
	}
	u.session = answer.header.Get("Location")
	if _, err := webURL(u.session); err != nil {
		return errSession
	}
	return nil
}

// again waits for another attempt, if one is worth it.
func (u *gcsUpload) again(ctx context.Context, try int, err error) bool {
	return try < uploadTries && passing(err) && retry.Sleep(ctx, max(u.out.pauses(time.Second)(try), afterOf(err)))
}

// part sends the bytes from u.at on. After a failure it asks how much arrived and
// goes on from there.
func (u *gcsUpload) part(ctx context.Context, data []byte, last bool) error {
	start, end := u.at, u.at+int64(len(data))
	total := "*"
	if last {
		total = strconv.FormatInt(end, 10)
	}
	lost := false
	for try := 1; ; try++ {
		body, span := data[u.at-start:], "*"
		if lost {
			body = nil // only asks
		}
		if len(body) > 0 {
			span = fmt.Sprintf("%d-%d", u.at, end-1)
		}
		answer, err := u.put(ctx, body, "bytes "+span+"/"+total)
		if err != nil {
			if !u.again(ctx, try, err) {
				return err
			}
			lost = true
			continue
		}
		if answer.status != http.StatusPermanentRedirect {
			if !last {
				return errResume // it is done before we are
			}
			u.at = end
			return nil
		}
		kept, err := keptBytes(answer.header.Get("Range"))
		if err != nil || kept < u.at || kept > end {
			return fmt.Errorf("%w: %q", errResume, answer.header.Get("Range"))
		}
		if kept > u.at {
			try = 0
		}
		if u.at, lost = kept, false; u.at == end && !last {
			return nil
		}
		if try >= uploadTries {
			return errResume // it answers well and keeps nothing
		}
	}
}

func (u *gcsUpload) put(ctx context.Context, body []byte, span string) (*reply, error) {
	return u.out.once(func() (*http.Request, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPut, u.session, bytes.NewReader(body))
		if err == nil {
			request.Header.Set("Content-Range", span)
		}
		return request, err
	}, []int{http.StatusPermanentRedirect})
}

// keptBytes reads the header Range of an answer, bytes=0-LAST; it is missing while
// nothing is kept.
func keptBytes(header string) (int64, error) {
	if header == "" {
		return 0, nil
	}
	_, last, _ := strings.Cut(header, "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if err != nil || n < 0 || n == math.MaxInt64 {
		return 0, errResume
	}
	return n + 1, nil
}
