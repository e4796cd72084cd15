package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

var toolColumns = []column{
	{"NAME", "name"},
	{"VERSION", "version"},
	{"AVAILABLE", "available"},
	{"SIZE", "size"},
	{"SHA256", "hash"},
	{"OVERRIDE", "override"},
	{"ARTIFACT", "artifact"},
	{"URL", "url"},
	{"ERROR", "error"},
}

func newTools(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "tools", Aliases: []string{"tool"}, Short: "Manage the programs that artifacts bring to clients",
		Long: `Manage the programs that artifacts bring to clients. Artifacts declare them; what
is done here counts before that, and stays when artifacts change.`,
	}
	c.AddCommand(newToolsShow(g), newToolsAdd(g), newToolsUpload(g),
		&cobra.Command{
			Use: "list", Short: "List tools", Args: cobra.NoArgs,
			Example: "  raptorpack tools list --config server.yaml",
			RunE:    func(c *cobra.Command, _ []string) error { return g.listed(c, "/tools", nil, 0, toolColumns...) },
		},
		newToolsMove(g, "delete", "Forget what was added or uploaded; what artifacts say of the tool counts again", http.MethodDelete, "", "tool %s is deleted"),
		newToolsMove(g, "fetch", "Have the master fetch a tool now, from where it says", http.MethodPost, "/fetch", "tool %s is asked for; tools show tells when it is there"),
	)
	return c
}

// toolPath is where one tool is; without a version the highest counts.
func toolPath(name, below, version string, more ...string) string {
	query := url.Values{}
	if version != "" {
		query.Set("version", version)
	}
	for i := 0; i < len(more); i += 2 {
		if more[i+1] != "" {
			query.Set(more[i], more[i+1])
		}
	}
	path := "/tools" + escaped(name) + below
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return path
}

func versionFlag(c *cobra.Command, version *string) *cobra.Command {
	c.Flags().StringVar(version, "tool-version", "", "which version of the tool; without it, the highest")
	return c
}

func newToolsShow(g *globals) *cobra.Command {
	var version string
	return versionFlag(&cobra.Command{
		Use: "show NAME", Short: "Show one tool", Args: exactly(1, "NAME"),
		Example: "  raptorpack tools show Autorun_amd64",
		RunE:    func(c *cobra.Command, args []string) error { return g.shown(c, toolPath(args[0], "", version)) },
	}, &version)
}

func newToolsMove(g *globals, verb, short, method, below, done string) *cobra.Command {
	var version string
	return versionFlag(&cobra.Command{
		Use: verb + " NAME", Short: short, Args: exactly(1, "NAME"),
		Example: "  raptorpack tools " + verb + " Autorun_amd64",
		RunE: func(c *cobra.Command, args []string) error {
			return g.changed(c, method, toolPath(args[0], below, version), nil, done, args[0])
		},
	}, &version)
}

// toolWish is a definition in the form of the JSON door.
type toolWish struct {
	Version          string `json:"version,omitempty"`
	URL              string `json:"url,omitempty"`
	GithubProject    string `json:"github_project,omitempty"`
	GithubAssetRegex string `json:"github_asset_regex,omitempty"`
	ServeLocally     bool   `json:"serve_locally,omitempty"`
	ExpectedHash     string `json:"expected_hash,omitempty"`
	Filename         string `json:"filename,omitempty"`
}

func newToolsAdd(g *globals) *cobra.Command {
	w := toolWish{}
	c := &cobra.Command{
		Use: "add NAME", Short: "Say where a tool comes from", Args: exactly(1, "NAME"),
		Long: `Say where a tool comes from. It is fetched when a collection needs it first, by the
node that leads, or with tools fetch. A hash that came and was not expected is
accepted by giving it as --expected-hash.`,
		Example: "  raptorpack tools add Autorun_amd64 --url https://live.sysinternals.com/tools/autorunsc64.exe --serve-locally",
		RunE: func(c *cobra.Command, args []string) error {
			return g.changed(c, http.MethodPut, toolPath(args[0], "", ""), w, "tool %s is set", args[0])
		},
	}
	flags := c.Flags()
	flags.StringVar(&w.Version, "tool-version", "", "its version")
	flags.StringVar(&w.URL, "url", "", "where it can be fetched")
	flags.StringVar(&w.GithubProject, "github-project", "", "OWNER/NAME, whose newest release is fetched")
	flags.StringVar(&w.GithubAssetRegex, "github-asset-regex", "", "which file of the release")
	flags.BoolVar(&w.ServeLocally, "serve-locally", false, "clients fetch it from this pack, not from the URL")
	flags.StringVar(&w.ExpectedHash, "expected-hash", "", "SHA-256 in hex; anything else that comes is refused")
	flags.StringVar(&w.Filename, "filename", "", "what it is called on clients")
	return c
}

func newToolsUpload(g *globals) *cobra.Command {
	var version, filename string
	c := &cobra.Command{
		Use: "upload NAME FILE", Short: "Make a file the tool that this pack serves", Args: exactly(2, "NAME and FILE"),
		Example: "  raptorpack tools upload Autorun_amd64 ./autorunsc64.exe",
		RunE: func(c *cobra.Command, args []string) error {
			file, err := openUpload(args[1])
			if err != nil {
				return err
			}
			defer file.Close()
			return g.withRemote(c, func(ctx context.Context, r *remote) error {
				path := toolPath(args[0], "/file", version, "filename", filename, "sha256", file.hash)
				if err := r.upload(ctx, http.MethodPut, path, file, nil); err != nil {
					return err
				}
				r.note("tool %s is uploaded, SHA-256 %s", args[0], file.hash)
				return nil
			})
		},
	}
	c.Flags().StringVar(&filename, "filename", "", "what it is called on clients; without it, as the file is")
	return versionFlag(c, &version)
}

// upload is a file on its way to a server. It may be sent more than once.
type upload struct {
	*os.File
	size       int64
	hash       string // SHA-256 in hex
	kind       string // content type of the body
	head, tail []byte // what a form has around the file
}

// openUpload opens and hashes a file: the server refuses it if it changes on the way.
func openUpload(name string) (*upload, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	size, err := io.Copy(sum, file)
	if err != nil {
		file.Close() // the first error says enough
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	u := &upload{File: file, size: size, hash: hex.EncodeToString(sum.Sum(nil))}
	var form bytes.Buffer
	parts := multipart.NewWriter(&form)
	if _, err := parts.CreateFormFile("file", filepath.Base(name)); err != nil {
		return nil, err // a buffer does not fail
	}
	u.head = bytes.Clone(form.Bytes())
	form.Reset()
	if err := parts.Close(); err != nil {
		return nil, err
	}
	u.tail, u.kind = form.Bytes(), parts.FormDataContentType()
	return u, nil
}

// body is the form from its beginning.
func (u *upload) body() io.Reader {
	return io.MultiReader(bytes.NewReader(u.head), io.NewSectionReader(u.File, 0, u.size), bytes.NewReader(u.tail))
}

// upload sends a file, again if the connection broke: it carries a key. The answer goes
// into what is given.
func (r *remote) upload(ctx context.Context, method, path string, file *upload, into any) error {
	header := newKey()
	header.Set("Content-Type", file.kind)
	var done struct {
		Index uint64 `json:"index"`
	}
	var answer json.RawMessage
	if err := r.do(ctx, call{method: method, path: path, header: header, file: file}, &answer); err != nil {
		return err
	}
	if json.Unmarshal(answer, &done) == nil {
		r.seen = max(r.seen, done.Index)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}
