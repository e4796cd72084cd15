package endpoint

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"raptorpack/vql"
)

var (
	errBucket = errors.New("a bucket is needed")
	errHalf   = errors.New("credentials_key and credentials_secret belong together")
)

// s3Options say which S3 is meant, and who asks.
type s3Options struct {
	endpoint, region   string
	key, secret, token string
	pathStyle          string // yes, no, or "" to go by the endpoint
	skipVerify         bool
}

// s3Client asks an S3 API. It is safe for concurrent use.
type s3Client struct {
	out       *outbound
	signer    awsSigner
	endpoint  *url.URL
	pathStyle bool
}

func newS3Client(scope *vql.Scope, o s3Options) (*s3Client, error) {
	if (o.key == "") != (o.secret == "") {
		return nil, errHalf
	}
	if o.region == "" {
		o.region = "us-east-1"
	}
	if o.endpoint == "" {
		o.endpoint = "https://s3." + o.region + ".amazonaws.com"
		if strings.HasPrefix(o.region, "cn-") {
			o.endpoint += ".cn"
		}
	}
	if !strings.Contains(o.endpoint, "://") {
		o.endpoint = "https://" + o.endpoint
	}
	endpoint, err := webURL(o.endpoint)
	if err != nil {
		return nil, err
	}
	out, err := newOutbound(scope, outboundOptions{skipVerify: o.skipVerify})
	if err != nil {
		return nil, err
	}
	return &s3Client{
		out: out, endpoint: endpoint, pathStyle: o.pathStyle == "yes" || o.pathStyle == "" && !isAWS(endpoint),
		signer: awsSigner{key: o.key, secret: o.secret, token: o.token, region: o.region, service: "s3"},
	}, nil
}

func isAWS(endpoint *url.URL) bool {
	host := endpoint.Hostname()
	return strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".amazonaws.com.cn")
}

// s3Request is one request of the API.
type s3Request struct {
	method, bucket, key string
	query               url.Values
	header              http.Header
	body                []byte
}

// build makes and signs the HTTP request of one attempt.
func (c *s3Client) build(ctx context.Context, r s3Request) (*http.Request, error) {
	target := *c.endpoint
	path := strings.TrimSuffix(target.Path, "/")
	// A certificate for *.HOST does not cover a bucket with a dot.
	switch inPath := c.pathStyle || strings.Contains(r.bucket, ".") || net.ParseIP(target.Hostname()) != nil; {
	case r.bucket == "":
	case inPath:
		path += "/" + r.bucket
	default:
		target.Host = r.bucket + "." + target.Host
	}
	target.Path, target.RawPath = path+"/"+r.key, ""
	target.RawQuery = r.query.Encode()
	request, err := http.NewRequestWithContext(ctx, r.method, "http://host/", bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	request.URL, request.Host = &target, target.Host
	for name, values := range r.header {
		request.Header[name] = values
	}
	c.signer.sign(request, hexHash(r.body), time.Now())
	return request, nil
}

// ask makes a request, again while its failure is a passing one.
func (c *s3Client) ask(ctx context.Context, r s3Request, accepted ...int) (*reply, error) {
	if r.bucket == "" && r.key != "" {
		return nil, errBucket
	}
	answer, err := c.out.ask(ctx, func() (*http.Request, error) { return c.build(ctx, r) }, accepted...)
	return answer, asFileError(err)
}

// asFileError says in the words of files what a status means.
func asFileError(err error) error {
	var status *statusError
	if !errors.As(err, &status) {
		return err
	}
	switch status.status {
	case http.StatusNotFound:
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case http.StatusForbidden, http.StatusUnauthorized:
		return fmt.Errorf("%w: %w", fs.ErrPermission, err)
	}
	return err
}

// s3Listing is an answer of ListObjectsV2.
type s3Listing struct {
	Contents []struct {
		Key          string
		LastModified time.Time
		ETag         string
		Size         int64
		StorageClass string
	}
	CommonPrefixes []struct{ Prefix string }
	Truncated      bool   `xml:"IsTruncated"`
	Next           string `xml:"NextContinuationToken"`
	Encoding       string `xml:"EncodingType"`
}

// list asks for one page of the names below prefix, as far as the next slash.
func (c *s3Client) list(ctx context.Context, bucket, prefix, next string, limit string) (*s3Listing, error) {
	query := url.Values{"list-type": {"2"}, "prefix": {prefix}, "delimiter": {"/"}, "encoding-type": {"url"}, "max-keys": {limit}}
	if next != "" {
		query.Set("continuation-token", next)
	}
	answer, err := c.ask(ctx, s3Request{method: http.MethodGet, bucket: bucket, query: query})
	if err != nil {
		return nil, err
	}
	var page s3Listing
	if err := xml.Unmarshal(answer.body, &page); err != nil {
		return nil, fmt.Errorf("read listing of %s: %w", bucket, err)
	}
	return &page, page.decode()
}

// decode undoes the encoding that keeps any name fit for XML.
func (l *s3Listing) decode() error {
	if l.Encoding != "url" {
		return nil
	}
	var err error
	for i := range l.Contents {
		if l.Contents[i].Key, err = url.QueryUnescape(l.Contents[i].Key); err != nil {
			return fmt.Errorf("read listing: %w", err)
		}
	}
	for i := range l.CommonPrefixes {
		if l.CommonPrefixes[i].Prefix, err = url.QueryUnescape(l.CommonPrefixes[i].Prefix); err != nil {
			return fmt.Errorf("read listing: %w", err)
		}
	}
	return nil
}

// buckets lists the buckets of the account.
func (c *s3Client) buckets(ctx context.Context) (names []string, made []time.Time, err error) {
	answer, err := c.ask(ctx, s3Request{method: http.MethodGet})
	if err != nil {
		return nil, nil, err
	}
	var all struct {
		Buckets []struct {
			Name         string
			CreationDate time.Time
		} `xml:"Buckets>Bucket"`
	}
	if err := xml.Unmarshal(answer.body, &all); err != nil {
		return nil, nil, fmt.Errorf("read list of buckets: %w", err)
	}
	for _, b := range all.Buckets {
		names, made = append(names, b.Name), append(made, b.CreationDate)
	}
	return names, made, nil
}
