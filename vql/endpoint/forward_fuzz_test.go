package endpoint

import (
	"encoding/xml"
	"errors"
	"net/url"
	"strings"
	"testing"
)

// Each row ends as taken, to be sent again or refused, whatever a target answers.
func FuzzBulkAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"errors":false}`, `{"errors":true,"items":[{"index":{"status":201}},{"index":{"status":429,"error":{"type":"x"}}}]}`,
		`{"errors":true,"items":[{},{"a":{"status":400},"b":{"status":200}}]}`, `{"errors":true,"items":[null,null]}`, `[]`, `{"errors":true,"items":3}`, "\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		rows := [][]byte{[]byte("one"), []byte("two")}
		var a forwardAnswer
		(&elastic{}).read(&reply{status: 200, body: body}, rows, &a)
		if lost := a.refused + len(a.again); lost > len(rows) || lost > 0 && a.reason == "" {
			t.Errorf("%q gives %+v", body, a)
		}
	})
}

func FuzzCloudID(f *testing.F) {
	for _, seed := range []string{"name:ZXUuZXhhbXBsZS5jb206OTI0MyRhYmMkZGVm", "n:aCRjOjE=", "x", ":", "n:aC8kYw==", "n:JGM="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		address, err := cloudAddress(id)
		if err != nil {
			if !errors.Is(err, errCloudID) {
				t.Error(err)
			}
			return
		}
		if u, err := url.Parse(address); err != nil || u.Scheme != "https" || u.Path != "" || u.User != nil || u.RawQuery != "" {
			t.Errorf("%q gives %q", id, address)
		}
	})
}

func FuzzS3Listing(f *testing.F) {
	for _, seed := range []string{
		"<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>a+b%26</Key><Size>3</Size></Contents><CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes></ListBucketResult>",
		"<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>%zz</Key></Contents></ListBucketResult>",
		"<x><Contents><LastModified>now</LastModified></Contents></x>", "<", "",
	} {
		f.Add([]byte(seed))
	}
	path, err := (s3Accessor{}).ParsePath("/b/p")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var page s3Listing
		if xml.Unmarshal(body, &page) != nil || page.decode() != nil {
			return
		}
		for _, info := range page.appendInfos(nil, path, "p/") {
			if info.Name() == "" || info.OSPath().Len() != 3 {
				t.Errorf("%q gives a name %q, path %s", body, info.Name(), info.OSPath())
			}
		}
	})
}

func FuzzKeptBytes(f *testing.F) {
	for _, seed := range []string{"", "bytes=0-99", "bytes=0--1", "bytes=0-9223372036854775807", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		if n, err := keptBytes(header); err == nil && (n < 0 || n == 0 && header != "") {
			t.Errorf("%q gives %d", header, n)
		}
	})
}

func FuzzServiceAccount(f *testing.F) {
	for _, seed := range []string{`{}`, `{"client_email":"a","private_key":"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}`, `{"token_uri":"x"}`, `[`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := readServiceAccount(text)
		if err == nil && (a.key == nil || !strings.HasPrefix(a.TokenURI, "http")) {
			t.Errorf("%q gives %+v", text, a)
		}
	})
}
