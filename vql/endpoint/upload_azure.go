package endpoint

import (
	"bytes"
	"context"
	"crypto/md5" // what the API checks a body's transport with
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"raptorpack/vql"
)

type uploadAzureArgs struct {
	File     *vql.Path `vql:"file,required" doc:"The file to send."`
	Name     string    `vql:"name" doc:"The blob's name (the file's path)."`
	Accessor string    `vql:"accessor" doc:"The accessor to open the file with (auto)."`
	SASURL   string    `vql:"sas_url,required" doc:"The URL of a container, or of a folder in it, with a shared access signature."`
}

const (
	azureVersion = "2020-10-02"
	// azureBlock is the smallest block that we send; a blob has at most 50,000.
	azureBlock        = 8 << 20
	azureLastBlock    = 50_000
	azureLargestBlock = 128 << 20
)

var (
	errSAS    = errors.New("sas_url should name a container and hold a signature")
	errBlocks = fmt.Errorf("the file has more than %d blocks", azureLastBlock)
)

var uploadAzureFunction = vql.NewFunction(vql.Spec{
	Name: "upload_azure", Permission: "NETWORK",
	Doc: "Sends a file to a container of Azure Blob Storage as a block blob. Gives the file's size and hashes, or NULL.",
}, func(ctx context.Context, scope *vql.Scope, args *uploadAzureArgs) (vql.Value, error) {
	name, err := objectName(scope, args.Accessor, args.File, args.Name, "")
	if err != nil {
		return nil, err
	}
	u := &azureUpload{}
	if u.blob, err = blobURL(args.SASURL, name); err != nil {
		return nil, err
	}
	if u.out, err = newOutbound(scope, outboundOptions{}); err != nil {
		return nil, err
	}
	defer u.out.close()
	return sendFile(ctx, scope, args.Accessor, args.File, name, func(file *outgoing) (string, error) {
		open := *u.blob
		open.RawQuery = "" // the signature is a secret
		return open.String(), u.send(ctx, file)
	})
})

// blobURL puts the blob's name into the URL of its container. A signature for one
// blob alone (sr=b) has it there already.
func blobURL(sas, name string) (*url.URL, error) {
	blob, err := webURL(sas)
	if err != nil {
		return nil, errSAS // the cause would show the signature
	}
	if strings.Trim(blob.Path, "/") == "" || blob.Query().Get("sig") == "" {
		return nil, errSAS
	}
	if blob.Query().Get("sr") != "b" {
		blob.Path = strings.TrimSuffix(blob.Path, "/") + "/" + name
		blob.RawPath = awsEscape(blob.Path, true)
	}
	return blob, nil
}

// azureUpload sends one file. What it leaves behind when it breaks is not visible,
// and removed by the store after a week.
type azureUpload struct {
	out  *outbound
	blob *url.URL
}

func (u *azureUpload) send(ctx context.Context, file *outgoing) error {
	buf, data, last, err := file.first(partSize(file.size, azureBlock, azureLargestBlock, azureLastBlock-1))
	if err != nil {
		return err
	}
	if last {
		return u.put(ctx, nil, http.Header{"X-Ms-Blob-Type": {"BlockBlob"}}, data)
	}
	var list struct {
		XMLName xml.Name `xml:"BlockList"`
		Latest  []string
	}
	for number := 1; ; number++ {
		if number > azureLastBlock {
			return errBlocks
		}
		id := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "block-%06d", number))
		if err := u.put(ctx, url.Values{"comp": {"block"}, "blockid": {id}}, nil, data); err != nil {
			return fmt.Errorf("block %d: %w", number, err)
		}
		list.Latest = append(list.Latest, id)
		if last {
			break
		}
		if data, last, err = file.next(buf); err != nil {
			return err
		}
	}
	body, err := xml.Marshal(list)
	if err != nil {
		return err
	}
	return u.put(ctx, url.Values{"comp": {"blocklist"}}, nil, body)
}

func (u *azureUpload) put(ctx context.Context, query url.Values, header http.Header, body []byte) error {
	target := *u.blob
	if len(query) > 0 {
		target.RawQuery += "&" + query.Encode()
	}
	sum := md5.Sum(body)
	_, err := u.out.ask(ctx, func() (*http.Request, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPut, target.String(), bytes.NewReader(body))
		if err != nil {
			return nil, errSAS // the cause would show the signature
		}
		for name, values := range header {
			request.Header[name] = values
		}
		request.Header.Set("X-Ms-Version", azureVersion)
		request.Header.Set("Content-Md5", base64.StdEncoding.EncodeToString(sum[:]))
		return request, nil
	})
	return asFileError(err)
}
