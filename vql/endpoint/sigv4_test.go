package endpoint

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// The requests and signatures are those that AWS publishes: "Examples: Signature
// Calculations in AWS Signature Version 4" of the S3 manual, and the test suite of
// Signature Version 4.
func TestSigV4KeepsToThePublishedVectors(t *testing.T) {
	const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	s3 := awsSigner{key: "AKIAIOSFODNN7EXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", region: "us-east-1", service: "s3"}
	s3Day := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	suite := awsSigner{key: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", region: "us-east-1", service: "service"}
	suiteDay := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	cases := map[string]struct {
		signer      awsSigner
		at          time.Time
		method, url string
		headers     map[string]string
		payload     string
		want        string
	}{
		"get object": {
			s3, s3Day, "GET", "https://examplebucket.s3.amazonaws.com/test.txt",
			map[string]string{"Range": "bytes=0-9"},
			emptyHash,
			"SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
		},
		"put object": {
			s3, s3Day, "PUT", "https://examplebucket.s3.amazonaws.com/test$file.text",
			map[string]string{"Date": "Fri, 24 May 2013 00:00:00 GMT", "X-Amz-Storage-Class": "REDUCED_REDUNDANCY"},
			hexHash([]byte("Welcome to Amazon S3.")),
			"SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class, Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
		},
		"get bucket lifecycle": {
			s3, s3Day, "GET", "https://examplebucket.s3.amazonaws.com/?lifecycle", nil, emptyHash,
			"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
		},
		"list objects": {
			s3, s3Day, "GET", "https://examplebucket.s3.amazonaws.com/?prefix=J&max-keys=2", nil, emptyHash,
			"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
		},
		"get-vanilla": {
			suite, suiteDay, "GET", "https://example.amazonaws.com/", nil, emptyHash,
			"SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
		},
		"get-vanilla-query-order-key-case": {
			suite, suiteDay, "GET", "https://example.amazonaws.com/?Param2=value2&Param1=value1", nil, emptyHash,
			"SignedHeaders=host;x-amz-date, Signature=b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequest(c.method, c.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			for key, value := range c.headers {
				r.Header.Set(key, value)
			}
			c.signer.sign(r, c.payload, c.at)
			if got := r.Header.Get("Authorization"); !strings.HasSuffix(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestSigV4SendsTheFormItSigns(t *testing.T) {
	r, err := http.NewRequest(http.MethodGet, "https://b.s3.amazonaws.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Path = "/a b/c+d/ü=1!.txt"
	r.URL.RawQuery = "prefix=x+y%2Fz"
	(&awsSigner{key: "k", region: "r", service: "s3"}).sign(r, "", time.Unix(0, 0))
	if got := r.URL.String(); got != "https://b.s3.amazonaws.com/a%20b/c%2Bd/%C3%BC%3D1%21.txt?prefix=x%20y%2Fz" {
		t.Error(got)
	}
}
