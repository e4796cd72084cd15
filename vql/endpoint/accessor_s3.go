package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"raptorpack/vql"
)

const (
	// s3SmallRead and s3LargeRead bound what one request reads ahead: it starts small
	// after each seek and doubles while reading goes straight on.
	s3SmallRead = 256 << 10
	s3LargeRead = 4 << 20
	s3Page      = "1000"
)

var (
	errCredentials = errors.New("S3_CREDENTIALS should be a dict")
	errChanged     = errors.New("the object changed while it was read")
)

// s3Accessor opens objects: the first component of a path is the bucket, the others
// are the key. The scope variable S3_CREDENTIALS is a dict of endpoint, region,
// credentials_key, credentials_secret, credentials_token, path_style and skip_verify.
type s3Accessor struct{}

func (s3Accessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(vql.PathGeneric, text), nil
}

// client returns the session's client for the credentials of the moment.
func (s3Accessor) client(ctx context.Context, scope *vql.Scope) (*s3Client, error) {
	if err := scope.Allowed("NETWORK"); err != nil {
		return nil, err
	}
	o, err := s3Credentials(ctx, scope)
	if err != nil {
		return nil, err
	}
	client, err := scope.Cache().Get(o, func() (any, error) {
		c, err := newS3Client(scope, o)
		if err == nil {
			scope.OnRootClose(c.out.close)
		}
		return c, err
	})
	if err != nil {
		return nil, err
	}
	return client.(*s3Client), nil
}

func s3Credentials(ctx context.Context, scope *vql.Scope) (s3Options, error) {
	var o s3Options
	v, ok := scope.Lookup("S3_CREDENTIALS")
	if !ok || vql.IsNull(v) {
		return o, nil
	}
	d, ok := scope.Real(ctx, v).(*vql.Dict)
	if !ok {
		return o, fmt.Errorf("%w, not %T", errCredentials, v)
	}
	for key, to := range map[string]*string{
		"endpoint": &o.endpoint, "region": &o.region, "credentials_key": &o.key,
		"credentials_secret": &o.secret, "credentials_token": &o.token,
	} {
		if v, ok := d.Get(key); ok && !vql.IsNull(v) {
			*to = scope.String(ctx, v)
		}
	}
	if v, ok := d.Get("path_style"); ok && !vql.IsNull(v) {
		o.pathStyle = "no"
		if scope.Truth(v) {
			o.pathStyle = "yes"
		}
	}
	for _, key := range []string{"skip_verify", "no_verify_cert"} {
		if v, ok := d.Get(key); ok && scope.Truth(v) {
			o.skipVerify = true
		}
	}
	return o, nil
}

// s3Name splits a path.
func s3Name(path *vql.Path) (bucket, key string) {
	parts := path.Components()
	if len(parts) == 0 {
		return "", ""
	}
	return parts[0], strings.Join(parts[1:], "/")
}

func s3Folder(path *vql.Path) *plainInfo {
	return &plainInfo{name: path.Basename(), path: path, mode: fs.ModeDir | 0o555}
}

// Lstat asks for the object, and then whether any name lies below.
func (a s3Accessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	client, err := a.client(ctx, scope)
	if err != nil {
		return nil, err
	}
	bucket, key := s3Name(path)
	if bucket == "" {
		return s3Folder(path), nil
	}
	if key != "" {
		info, err := client.head(ctx, bucket, key, path)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return info, err
		}
		key += "/"
	}
	page, err := client.list(ctx, bucket, key, "", "1")
	if err != nil {
		return nil, err
	}
	if key != "" && len(page.Contents)+len(page.CommonPrefixes) == 0 {
		return nil, &fs.PathError{Op: "stat", Path: path.String(), Err: fs.ErrNotExist}
	}
	return s3Folder(path), nil
}

func (c *s3Client) head(ctx context.Context, bucket, key string, path *vql.Path) (vql.FileInfo, error) {
	answer, err := c.ask(ctx, s3Request{method: http.MethodHead, bucket: bucket, key: key})
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path.String(), Err: err}
	}
	size, err := strconv.ParseInt(answer.header.Get("Content-Length"), 10, 64)
	if err != nil || size < 0 {
		return nil, fmt.Errorf("stat %s: the answer has no length", path)
	}
	mtime, err := http.ParseTime(answer.header.Get("Last-Modified"))
	if err != nil {
		mtime = time.Time{}
	}
	return s3Object(path, size, mtime.UTC(), answer.header.Get("ETag"), answer.header.Get("X-Amz-Storage-Class")), nil
}

func s3Object(path *vql.Path, size int64, mtime time.Time, etag, class string) *plainInfo {
	i := &plainInfo{name: path.Basename(), path: path, size: size, mode: 0o444, mtime: mtime, extra: vql.NewDict()}
	i.extra.Set("ETag", strings.Trim(etag, `"`))
	if class != "" {
		i.extra.Set("StorageClass", class)
	}
	return i
}

func (a s3Accessor) ReadDir(ctx context.Context, scope *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	client, err := a.client(ctx, scope)
	if err != nil {
		return nil, err
	}
	bucket, key := s3Name(path)
	if bucket == "" {
		return client.readBuckets(ctx, path)
	}
	prefix := ""
	if key != "" {
		prefix = key + "/"
	}
	var out []vql.FileInfo
	for next := ""; ; {
		if err := scope.Charge(ctx); err != nil {
			return nil, err
		}
		page, err := client.list(ctx, bucket, prefix, next, s3Page)
		if err != nil {
			return nil, &fs.PathError{Op: "list", Path: path.String(), Err: err}
		}
		out = page.appendInfos(out, path, prefix)
		if !page.Truncated {
			break
		}
		if page.Next == "" || page.Next == next {
			return nil, fmt.Errorf("list %s: the listing goes on, but nothing says where", path)
		}
		next = page.Next
	}
	slices.SortFunc(out, func(a, b vql.FileInfo) int { return cmp.Compare(a.Name(), b.Name()) })
	return out, nil
}

func (c *s3Client) readBuckets(ctx context.Context, path *vql.Path) ([]vql.FileInfo, error) {
	names, made, err := c.buckets(ctx)
	if err != nil {
		return nil, &fs.PathError{Op: "list", Path: path.String(), Err: err}
	}
	var out []vql.FileInfo
	for i, name := range names {
		info := s3Folder(path.Append(name))
		info.mtime = made[i]
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b vql.FileInfo) int { return cmp.Compare(a.Name(), b.Name()) })
	return out, nil
}

// appendInfos adds the names of a page. An object named as the folder itself is how
// some tools mark an empty folder.
func (l *s3Listing) appendInfos(out []vql.FileInfo, path *vql.Path, prefix string) []vql.FileInfo {
	for _, p := range l.CommonPrefixes {
		if name := strings.TrimSuffix(strings.TrimPrefix(p.Prefix, prefix), "/"); name != "" {
			out = append(out, s3Folder(path.Append(name)))
		}
	}
	for _, o := range l.Contents {
		if name := strings.TrimPrefix(o.Key, prefix); name != "" {
			out = append(out, s3Object(path.Append(name), o.Size, o.LastModified, o.ETag, o.StorageClass))
		}
	}
	return out
}

func (a s3Accessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	client, err := a.client(ctx, scope)
	if err != nil {
		return nil, err
	}
	bucket, key := s3Name(path)
	if key == "" {
		return nil, &fs.PathError{Op: "open", Path: path.String(), Err: ErrNotRegular}
	}
	info, err := client.head(ctx, bucket, key, path)
	if err != nil {
		return nil, err
	}
	etag, _ := info.Data().Get("ETag")
	header := http.Header{"If-Match": {`"` + fmt.Sprint(etag) + `"`}}
	return &s3File{size: info.Size(), fetch: func(from, to int64) ([]byte, error) {
		r := s3Request{method: http.MethodGet, bucket: bucket, key: key, query: url.Values{}, header: header.Clone()}
		r.header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
		return client.fetch(ctx, r, to-from)
	}}, nil
}

// fetch reads exactly so many bytes.
func (c *s3Client) fetch(ctx context.Context, r s3Request, length int64) ([]byte, error) {
	answer, err := c.ask(ctx, r)
	var status *statusError
	if errors.As(err, &status) && status.status == http.StatusPreconditionFailed {
		return nil, errChanged
	}
	if err != nil {
		return nil, err
	}
	if answer.status != http.StatusPartialContent || int64(len(answer.body)) != length {
		return nil, fmt.Errorf("asked for %d bytes, status %d brings %d", length, answer.status, len(answer.body))
	}
	return answer.body, nil
}

// s3File reads an object by ranges. Like all files it serves one reader.
type s3File struct {
	size  int64
	fetch func(from, to int64) ([]byte, error)

	at     int64
	buf    []byte // what was read ahead
	begin  int64  // where buf lies in the object
	window int64
}

func (f *s3File) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if f.at >= f.size {
		return 0, io.EOF
	}
	if f.at < f.begin || f.at >= f.begin+int64(len(f.buf)) {
		if err := f.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.buf[f.at-f.begin:])
	f.at += int64(n)
	return n, nil
}

func (f *s3File) fill() error {
	if f.window == 0 || f.at != f.begin+int64(len(f.buf)) {
		f.window = s3SmallRead
	} else {
		f.window = min(2*f.window, s3LargeRead)
	}
	data, err := f.fetch(f.at, min(f.at+f.window, f.size))
	if err != nil {
		return err
	}
	f.buf, f.begin = data, f.at
	return nil
}

func (f *s3File) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.at
	case io.SeekEnd:
		offset += f.size
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	f.at = offset
	return offset, nil
}

func (f *s3File) Close() error {
	f.buf = nil
	return nil
}
