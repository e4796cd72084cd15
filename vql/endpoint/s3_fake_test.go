package endpoint_test

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// fakeS3 is an S3 with one bucket that checks every signature.
type fakeS3 struct {
	*target

	mu      sync.Mutex
	objects map[string][]byte
	headers map[string]http.Header
	parts   map[string]map[int][]byte // by upload
	largest int                       // body
	aborted chan string               // names of uploads that were taken back; a test makes fewer than fit
	page    int                       // names in a page of a listing
}

func newFakeS3(t testing.TB, faults ...func(http.ResponseWriter)) *fakeS3 {
	t.Helper()
	f := &fakeS3{objects: map[string][]byte{}, headers: map[string]http.Header{}, parts: map[string]map[int][]byte{}, page: 1000, aborted: make(chan string, 10)}
	f.target = newTarget(t, f.serve, faults...)
	return f
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func sha(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// signed checks a signature made with the key "key" and the secret "hush" from what
// arrived, as the manual of AWS has it.
func signed(r *http.Request, body []byte) string {
	credential, rest, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential="), ", SignedHeaders=")
	names, signature, ok := strings.Cut(rest, ", Signature=")
	scope := strings.Split(credential, "/")
	if !ok || len(scope) != 5 || scope[0] != "key" || scope[3] != "s3" {
		return "authorization " + r.Header.Get("Authorization")
	}
	if r.Header.Get("X-Amz-Content-Sha256") != sha(body) {
		return "the body is another"
	}
	canonical := []string{r.Method, r.URL.EscapedPath()}
	pairs := strings.Split(r.URL.RawQuery, "&")
	slices.Sort(pairs)
	canonical = append(canonical, strings.Join(pairs, "&"))
	for _, name := range strings.Split(names, ";") {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		canonical = append(canonical, name+":"+value)
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Amz-") && !slices.Contains(strings.Split(names, ";"), strings.ToLower(name)) {
			return name + " is not signed"
		}
	}
	canonical = append(canonical, "", names, sha(body))
	text := "AWS4-HMAC-SHA256\n" + r.Header.Get("X-Amz-Date") + "\n" + strings.Join(scope[1:], "/") + "\n" + sha([]byte(strings.Join(canonical, "\n")))
	key := []byte("AWS4hush")
	for _, part := range scope[1:] {
		key = mac(key, part)
	}
	if hex.EncodeToString(mac(key, text)) != signature {
		return "the signature does not match " + strings.Join(canonical, "|")
	}
	return ""
}

func (f *fakeS3) serve(_ *target, w http.ResponseWriter, r *http.Request, body []byte) {
	if wrong := signed(r, body); wrong != "" {
		http.Error(w, "<Error><Code>SignatureDoesNotMatch</Code></Error>", http.StatusForbidden)
		f.t.Errorf("%s %s: %s", r.Method, r.URL, wrong)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.largest = max(f.largest, len(body))
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if bucket == "" {
		fmt.Fprint(w, `<ListAllMyBucketsResult><Buckets><Bucket><Name>b</Name><CreationDate>2024-01-02T03:04:05.000Z</CreationDate></Bucket></Buckets></ListAllMyBucketsResult>`)
		return
	}
	if bucket != "b" {
		http.Error(w, "<Error><Code>NoSuchBucket</Code></Error>", http.StatusNotFound)
		return
	}
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodPost && query.Has("uploads"):
		id := fmt.Sprintf("id %d/+", len(f.parts)) // of characters that need encoding
		f.parts[id] = map[int][]byte{}
		f.headers[key] = r.Header.Clone()
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	case query.Has("uploadId"):
		f.upload(w, r, key, query.Get("uploadId"), query.Get("partNumber"), body)
	case r.Method == http.MethodPut:
		f.objects[key], f.headers[key] = body, r.Header.Clone()
		w.Header().Set("ETag", etag(body))
	case key == "":
		f.list(w, query.Get("prefix"), query.Get("continuation-token"), query.Get("max-keys"))
	default:
		f.get(w, r, key)
	}
}

func etag(data []byte) string {
	sum := md5.Sum(data)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func (f *fakeS3) upload(w http.ResponseWriter, r *http.Request, key, id, number string, body []byte) {
	parts, ok := f.parts[id]
	if !ok {
		http.Error(w, "<Error><Code>NoSuchUpload</Code></Error>", http.StatusNotFound)
		return
	}
	switch r.Method {
	case http.MethodPut:
		n, err := strconv.Atoi(number)
		if err != nil {
			f.t.Error(err)
		}
		parts[n] = body
		w.Header().Set("ETag", etag(body))
	case http.MethodDelete:
		f.aborted <- key
		delete(f.parts, id)
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPost:
		var list struct {
			Part []struct {
				PartNumber int
				ETag       string
			}
		}
		if err := xml.Unmarshal(body, &list); err != nil {
			f.t.Error(err)
		}
		var whole []byte
		for i, p := range list.Part {
			if p.ETag != etag(parts[p.PartNumber]) || i < len(list.Part)-1 && len(parts[p.PartNumber]) < 5<<20 {
				fmt.Fprint(w, "<Error><Code>InvalidPart</Code></Error>")
				return
			}
			whole = append(whole, parts[p.PartNumber]...)
		}
		f.objects[key] = whole
		delete(f.parts, id)
		fmt.Fprint(w, "<?xml version=\"1.0\"?>\n<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
	}
}

func (f *fakeS3) get(w http.ResponseWriter, r *http.Request, key string) {
	data, ok := f.objects[key]
	if !ok {
		http.Error(w, "<Error><Code>NoSuchKey</Code></Error>", http.StatusNotFound)
		return
	}
	if match := r.Header.Get("If-Match"); match != "" && match != etag(data) {
		http.Error(w, "<Error><Code>PreconditionFailed</Code></Error>", http.StatusPreconditionFailed)
		return
	}
	w.Header().Set("ETag", etag(data))
	w.Header().Set("Last-Modified", "Tue, 02 Jan 2024 03:04:05 GMT")
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		return
	}
	var from, to int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil || from >= len(data) {
		f.t.Errorf("range %q: %v", r.Header.Get("Range"), err)
		return
	}
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(data[from:min(to+1, len(data))]) // the client may have gone
}

// list answers ListObjectsV2 with delimiter / and encoded names.
func (f *fakeS3) list(w http.ResponseWriter, prefix, after, limit string) {
	var items []string
	for key := range f.objects {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		if folder, _, deeper := strings.Cut(rest, "/"); deeper {
			key = prefix + folder + "/"
		}
		if key > after && !slices.Contains(items, key) {
			items = append(items, key)
		}
	}
	slices.Sort(items)
	n, err := strconv.Atoi(limit)
	if err != nil {
		f.t.Error(err)
	}
	n = min(n, f.page)
	fmt.Fprint(w, "<ListBucketResult><EncodingType>url</EncodingType>")
	if len(items) > n {
		items = items[:n]
		fmt.Fprintf(w, "<IsTruncated>true</IsTruncated><NextContinuationToken>%s</NextContinuationToken>", items[n-1])
	}
	for _, key := range items {
		encoded := strings.ReplaceAll(strings.ReplaceAll(key, "&", "%26"), " ", "+")
		if strings.HasSuffix(key, "/") {
			fmt.Fprintf(w, "<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>", encoded)
			continue
		}
		fmt.Fprintf(w, "<Contents><Key>%s</Key><LastModified>2024-01-02T03:04:05.000Z</LastModified><ETag>%s</ETag><Size>%d</Size></Contents>",
			encoded, strings.ReplaceAll(etag(f.objects[key]), `"`, "&quot;"), len(f.objects[key]))
	}
	fmt.Fprint(w, "</ListBucketResult>")
}
