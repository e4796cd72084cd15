package endpoint

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// awsSigner signs requests with AWS Signature Version 4, as the manual of AWS has it
// ("Create a signed AWS API request"). The zero key signs nothing: the target then
// takes the request as one of the public.
type awsSigner struct {
	key, secret, token string
	region, service    string
}

const (
	awsAlgorithm = "AWS4-HMAC-SHA256"
	awsTimes     = "20060102T150405Z"
)

// sign adds the headers of a signature over the request and all headers it has by
// now; what proxies may change, as User-Agent, is set later. The URL's path and query are rewritten to the form that is signed. payload is
// the hex of the body's SHA-256.
func (s *awsSigner) sign(r *http.Request, payload string, now time.Time) {
	r.URL.RawPath = awsEscape(r.URL.Path, true)
	r.URL.RawQuery = awsQuery(r.URL.Query())
	if s.key == "" {
		return
	}
	now = now.UTC()
	r.Header.Set("X-Amz-Date", now.Format(awsTimes))
	if s.service == "s3" {
		r.Header.Set("X-Amz-Content-Sha256", payload)
	}
	if s.token != "" {
		r.Header.Set("X-Amz-Security-Token", s.token)
	}
	headers, names := awsHeaders(r)
	canonical := strings.Join([]string{r.Method, awsPath(r.URL), r.URL.RawQuery, headers, names, payload}, "\n")
	day := now.Format("20060102")
	scope := day + "/" + s.region + "/" + s.service + "/aws4_request"
	text := strings.Join([]string{awsAlgorithm, now.Format(awsTimes), scope, hexHash([]byte(canonical))}, "\n")
	key := []byte("AWS4" + s.secret)
	for _, part := range []string{day, s.region, s.service, "aws4_request"} {
		key = hmacOf(key, part)
	}
	r.Header.Set("Authorization", awsAlgorithm+" Credential="+s.key+"/"+scope+
		", SignedHeaders="+names+", Signature="+hex.EncodeToString(hmacOf(key, text)))
}

func hmacOf(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func hexHash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func awsPath(u *url.URL) string {
	if u.RawPath == "" {
		return "/"
	}
	return u.RawPath
}

// awsHeaders gives the canonical headers and their names.
func awsHeaders(r *http.Request) (lines, names string) {
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	all := map[string]string{"host": host}
	for name, values := range r.Header {
		trimmed := make([]string, len(values))
		for i, v := range values {
			trimmed[i] = strings.Join(strings.Fields(v), " ")
		}
		all[strings.ToLower(name)] = strings.Join(trimmed, ",")
	}
	order := sortedKeys(all)
	var b strings.Builder
	for _, name := range order {
		b.WriteString(name + ":" + all[name] + "\n")
	}
	return b.String(), strings.Join(order, ";")
}

// awsQuery is the canonical query: pairs sorted by their encoded form.
func awsQuery(query url.Values) string {
	var pairs []string
	for _, key := range sortedKeys(query) {
		for _, value := range slices.Sorted(slices.Values(query[key])) {
			pairs = append(pairs, awsEscape(key, false)+"="+awsEscape(value, false))
		}
	}
	return strings.Join(pairs, "&")
}

// awsEscape encodes every byte but those that RFC 3986 calls unreserved, and the
// slashes of a path.
func awsEscape(text string, isPath bool) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9',
			strings.IndexByte("-_.~", c) >= 0, c == '/' && isPath:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	return b.String()
}
