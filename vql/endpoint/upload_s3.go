package endpoint

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"raptorpack/vql"
)

type uploadS3Args struct {
	File       *vql.Path `vql:"file,required" doc:"The file to send."`
	Name       string    `vql:"name" doc:"The object's name (the file's path)."`
	Accessor   string    `vql:"accessor" doc:"The accessor to open the file with (auto)."`
	Bucket     string    `vql:"bucket,required" doc:"The bucket."`
	Region     string    `vql:"region" doc:"The bucket's region (us-east-1)."`
	Key        string    `vql:"credentials_key" doc:"The access key; without one the request is not signed."`
	KeySecret  string    `vql:"credentials_secret" doc:"The secret access key."`
	KeyToken   string    `vql:"credentials_token" doc:"The session token of temporary credentials."`
	Endpoint   string    `vql:"endpoint" doc:"The URL of an S3 other than that of AWS."`
	SSE        string    `vql:"serverside_encryption" doc:"AES256 or aws:kms."`
	KMSKey     string    `vql:"kms_encryption_key" doc:"The KMS key to encrypt with."`
	Root       string    `vql:"s3upload_root" doc:"The folder to put the object in."`
	SkipVerify bool      `vql:"skip_verify" doc:"Accept any certificate."`
	PathStyle  *bool     `vql:"path_style" doc:"Name the bucket in the path, not in the host (TRUE for all but AWS)."`
	Secret     string    `vql:"secret" doc:"A named secret; this build has none."`
}

const (
	// s3Part is the smallest part that we send; S3 takes 5 MiB and more, and at most
	// 10,000 parts.
	s3Part     = 8 << 20
	s3LastPart = 10_000
	// s3LargestPart bounds what one upload holds in memory; files up to 1.2 TiB fit.
	s3LargestPart = 128 << 20
	// abortWait is how long a broken upload may take to be taken back.
	abortWait = 5 * time.Second
)

var (
	errSSE      = errors.New("serverside_encryption should be AES256 or aws:kms")
	errParts    = fmt.Errorf("the file has more than %d parts", s3LastPart)
	errComplete = errors.New("the parts could not be put together")
)

var uploadS3Function = vql.NewFunction(vql.Spec{
	Name: "upload_s3", Permission: "NETWORK",
	Doc: "Sends a file to a bucket of S3 or of what speaks its protocol. Gives the file's size and hashes, or NULL.",
}, func(ctx context.Context, scope *vql.Scope, args *uploadS3Args) (vql.Value, error) {
	if args.Secret != "" {
		return nil, errSecrets
	}
	name, err := objectName(scope, args.Accessor, args.File, args.Name, args.Root)
	if err != nil {
		return nil, err
	}
	u := &s3Upload{bucket: args.Bucket, key: name, scope: scope, header: http.Header{}}
	if err := u.encrypt(args.SSE, args.KMSKey); err != nil {
		return nil, err
	}
	if u.client, err = newS3Client(scope, args.options()); err != nil {
		return nil, err
	}
	defer u.client.out.close()
	return sendFile(ctx, scope, args.Accessor, args.File, name, func(file *outgoing) (string, error) {
		return "s3://" + args.Bucket + "/" + name, u.send(ctx, file)
	})
})

func (a *uploadS3Args) options() s3Options {
	o := s3Options{
		endpoint: a.Endpoint, region: a.Region, key: a.Key, secret: a.KeySecret, token: a.KeyToken, skipVerify: a.SkipVerify,
	}
	if a.PathStyle != nil {
		o.pathStyle = "no"
		if *a.PathStyle {
			o.pathStyle = "yes"
		}
	}
	return o
}

// s3Upload sends one file.
type s3Upload struct {
	client      *s3Client
	scope       *vql.Scope
	bucket, key string
	header      http.Header // of the request that makes the object
}

func (u *s3Upload) encrypt(sse, key string) error {
	if sse == "" && key != "" {
		sse = "aws:kms"
	}
	switch sse {
	case "":
		return nil
	case "AES256", "aws:kms":
	default:
		return fmt.Errorf("%w, not %s", errSSE, sse)
	}
	u.header.Set("X-Amz-Server-Side-Encryption", sse)
	if key != "" {
		u.header.Set("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", key)
	}
	return nil
}

// send puts a small file in one request and others in parts, holding one part.
func (u *s3Upload) send(ctx context.Context, file *outgoing) error {
	buf, data, last, err := file.first(partSize(file.size, s3Part, s3LargestPart, s3LastPart-1))
	if err != nil {
		return err
	}
	if last {
		_, err := u.client.ask(ctx, s3Request{method: http.MethodPut, bucket: u.bucket, key: u.key, header: u.header, body: data})
		return err
	}
	id, err := u.begin(ctx)
	if err != nil {
		return err
	}
	if err := u.parts(ctx, id, file, buf, data, last); err != nil {
		return errors.Join(err, u.abort(ctx, id))
	}
	return nil
}

func (u *s3Upload) begin(ctx context.Context) (string, error) {
	answer, err := u.client.ask(ctx, s3Request{method: http.MethodPost, bucket: u.bucket, key: u.key, header: u.header, query: url.Values{"uploads": {""}}})
	if err != nil {
		return "", err
	}
	var begun struct {
		UploadID string `xml:"UploadId"`
	}
	if err := xml.Unmarshal(answer.body, &begun); err != nil || begun.UploadID == "" {
		return "", fmt.Errorf("begin the upload: %w", errors.Join(err, errComplete))
	}
	return begun.UploadID, nil
}

// s3Parts is what CompleteMultipartUpload takes.
type s3Parts struct {
	XMLName xml.Name `xml:"CompleteMultipartUpload"`
	Parts   []s3Done `xml:"Part"`
}

type s3Done struct {
	Number int    `xml:"PartNumber"`
	ETag   string `xml:"ETag"`
}

// parts sends data and the rest of the file, and puts it together.
func (u *s3Upload) parts(ctx context.Context, id string, file *outgoing, buf, data []byte, last bool) error {
	var done s3Parts
	for number := 1; ; number++ {
		if number > s3LastPart {
			return errParts
		}
		answer, err := u.client.ask(ctx, s3Request{
			method: http.MethodPut, bucket: u.bucket, key: u.key, body: data,
			query: url.Values{"partNumber": {strconv.Itoa(number)}, "uploadId": {id}},
		})
		if err != nil {
			return fmt.Errorf("part %d: %w", number, err)
		}
		done.Parts = append(done.Parts, s3Done{number, answer.header.Get("ETag")})
		if last {
			return u.complete(ctx, id, &done)
		}
		if data, last, err = file.next(buf); err != nil {
			return err
		}
	}
}

// complete puts the parts together. S3 may answer 200 and tell of an error only in
// the body, because it answers before it is done.
func (u *s3Upload) complete(ctx context.Context, id string, done *s3Parts) error {
	body, err := xml.Marshal(done)
	if err != nil {
		return err
	}
	answer, err := u.client.ask(ctx, s3Request{method: http.MethodPost, bucket: u.bucket, key: u.key, query: url.Values{"uploadId": {id}}, body: body})
	if err != nil {
		return fmt.Errorf("%w: %w", errComplete, err)
	}
	var result struct{ XMLName xml.Name }
	if err := xml.Unmarshal(answer.body, &result); err != nil || result.XMLName.Local != "CompleteMultipartUploadResult" {
		return fmt.Errorf("%w: %s", errComplete, answer.text())
	}
	return nil
}

// abort gives the parts back, which would cost their owner money otherwise; it does
// so too when the query was cancelled.
func (u *s3Upload) abort(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortWait)
	defer cancel()
	_, err := u.client.ask(ctx, s3Request{method: http.MethodDelete, bucket: u.bucket, key: u.key, query: url.Values{"uploadId": {id}}}, http.StatusNotFound)
	if err != nil {
		return fmt.Errorf("take the upload back: %w", err)
	}
	return nil
}
