package inventory

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"raptorpack/artifacts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

var (
	// ErrUnknown means that no artifact and no operator defines the tool.
	ErrUnknown = errors.New("unknown tool")

	// ErrInvalid means that a wish is malformed. Trying again does not help.
	ErrInvalid = errors.New("invalid tool")

	// ErrMissing means that a tool has no file: it was not fetched or uploaded yet,
	// or fetching it failed; the text says which.
	ErrMissing = errors.New("tool is not available")

	// ErrFetching means that the master fetches the tool at the moment. Trying again
	// helps.
	ErrFetching = errors.New("tool is being fetched")

	// ErrChanged means that the tool was changed meanwhile. Trying again helps.
	ErrChanged = errors.New("tool was changed meanwhile")

	// ErrTooLarge means that a file has more bytes than a tool may have.
	ErrTooLarge = errors.New("file is too large")
)

const (
	maxName = 200      // bytes of a name, version or filename
	maxURL  = 4 << 10  // bytes
	maxText = 16 << 10 // bytes of all texts of a definition
)

var validHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Key names a tool of an org.
type Key struct {
	Org     ids.Org
	Name    string
	Version string
}

// File is what the public folder has of a tool.
type File struct {
	Hash     string // SHA-256, lower-case hex
	Size     int64
	Path     string // name in the public folder
	Filename string // as it came
	From     string // the URL it was fetched from; empty: uploaded
	Setter   string // who uploaded it, or asked for it
	At       time.Time
}

// Failure is why a fetch brought nothing.
type Failure struct {
	Text string
	Hash string // of what came, when it was not what was expected
	At   time.Time
}

// Tool is one version of a tool as it counts now.
type Tool struct {
	artifacts.Tool
	Artifact string // that defines it; empty: an operator does
	Override bool   // an operator's definition
	Setter   string // who made that
	File     *File  // nil: there is none
	Fetching bool
	Failure  *Failure // of the newest fetch
}

// Local reports whether agents get the tool from this pack.
func (t *Tool) Local() bool {
	return t.ServeLocally || t.GithubProject != "" || t.URL == ""
}

// Hash is the SHA-256 of the tool; empty when nobody knows it yet.
func (t *Tool) Hash() string {
	switch {
	case t.File != nil:
		return t.File.Hash
	case !t.Local():
		return t.ExpectedHash
	}
	return ""
}

// Filename is what the tool is called on an endpoint.
func (t *Tool) Filename() string {
	if t.Tool.Filename != "" {
		return t.Tool.Filename
	}
	if t.File != nil && t.File.Filename != "" {
		return t.File.Filename
	}
	return cmp.Or(nameIn(t.URL), t.Name)
}

// nameIn is the last part of a URL's path, empty when it has none.
func nameIn(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	name := path.Base(u.Path)
	if checkFilename(name) != nil {
		return ""
	}
	return name
}

// URLs are where clients are sent for the tool, the best first. servers are the URLs
// of the pack, as clients are given them. The error wraps ErrMissing or ErrFetching.
func (t *Tool) URLs(servers []string) ([]string, error) {
	switch {
	case t.Hash() == "":
		return nil, t.missing()
	case !t.Local():
		return []string{t.URL}, nil
	case len(servers) == 0:
		return nil, fmt.Errorf("tool %s: clients are told no server URL to fetch it from: %w", t.Name, ErrMissing)
	}
	urls := make([]string, len(servers))
	for i, server := range servers {
		urls[i] = publicURL(server) + t.File.Path
	}
	return urls, nil
}

// Variables are what artifacts are told of the tool, as URLs has it.
func (t *Tool) Variables(servers []string) ([]artifacts.Value, error) {
	urls, err := t.URLs(servers)
	if err != nil {
		return nil, err
	}
	list, err := json.Marshal(urls)
	if err != nil {
		return nil, fmt.Errorf("tool %s: %w", t.Name, err)
	}
	prefix := "Tool_" + t.Name + "_"
	return []artifacts.Value{
		{Name: prefix + "HASH", Value: t.Hash()},
		{Name: prefix + "FILENAME", Value: t.Filename()},
		{Name: prefix + "VERSION", Value: t.Version},
		{Name: prefix + "URL", Value: urls[0]},
		{Name: prefix + "URLs", Value: string(list)},
	}, nil
}

// publicURL is where a server's public files are: WebSocket schemes are those of
// HTTP to who fetches a file.
func publicURL(server string) string {
	if rest, ok := strings.CutPrefix(server, "ws"); ok {
		server = "http" + rest
	}
	return strings.TrimSuffix(server, "/") + "/public/"
}

func (t *Tool) missing() error {
	switch {
	case t.Fetching:
		return fmt.Errorf("tool %s: the master is busy with it: %w", t.Name, ErrFetching)
	case t.Failure != nil:
		return fmt.Errorf("tool %s: %s: %w", t.Name, t.Failure.Text, ErrMissing)
	case !hasSource(&t.Tool):
		return fmt.Errorf("tool %s: it says nowhere where it comes from, an administrator has to upload it: %w", t.Name, ErrMissing)
	}
	return fmt.Errorf("tool %s: it was not fetched yet: %w", t.Name, ErrMissing)
}

// hasSource reports whether a tool says where it can be fetched.
func hasSource(t *artifacts.Tool) bool { return t.URL != "" || t.GithubProject != "" }

// sourceOf is what File.From says of a file that came from where a tool says.
func sourceOf(t *artifacts.Tool) string {
	if t.GithubProject != "" {
		return githubSource + t.GithubProject + "/" + t.GithubAssetRegex
	}
	return t.URL
}

const githubSource = "github:"

// check refuses definitions that no endpoint could use.
func check(t *artifacts.Tool) error {
	switch {
	case t.Name == "":
		return fmt.Errorf("a tool without a name: %w", ErrInvalid)
	case len(t.Name)+len(t.Version)+len(t.URL)+len(t.GithubProject)+len(t.GithubAssetRegex)+len(t.Filename) > maxText:
		return fmt.Errorf("tool %.60q: texts of more than %d bytes: %w", t.Name, maxText, ErrInvalid)
	case !plain(t.Name), !plain(t.Version):
		return fmt.Errorf("tool %.60q: name and version may have %d bytes, no slash and nothing unprintable: %w", t.Name, maxName, ErrInvalid)
	case t.ExpectedHash != "" && !validHash.MatchString(t.ExpectedHash):
		return fmt.Errorf("tool %s: expected hash %.80q is no SHA-256 in hex: %w", t.Name, t.ExpectedHash, ErrInvalid)
	}
	if t.Filename != "" {
		if err := checkFilename(t.Filename); err != nil {
			return fmt.Errorf("tool %s: %w", t.Name, err)
		}
	}
	if t.URL != "" {
		if err := checkURL(t.URL); err != nil {
			return fmt.Errorf("tool %s: %w", t.Name, err)
		}
	}
	return checkGithub(t)
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || len(text) > maxURL || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%.120q is no http or https URL: %w", text, ErrInvalid)
	}
	return nil
}

var validProject = regexp.MustCompile(`^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$`)

func checkGithub(t *artifacts.Tool) error {
	if t.GithubProject == "" {
		return nil
	}
	if !validProject.MatchString(t.GithubProject) {
		return fmt.Errorf("tool %s: GitHub project %.80q: expected OWNER/NAME: %w", t.Name, t.GithubProject, ErrInvalid)
	}
	if _, err := regexp.Compile(t.GithubAssetRegex); err != nil {
		return fmt.Errorf("tool %s: github_asset_regex: %w: %w", t.Name, err, ErrInvalid)
	}
	return nil
}

// checkFilename refuses what is no single name of a file on every platform.
func checkFilename(name string) error {
	if name == "" || name == "." || name == ".." || !plain(name) || strings.ContainsAny(name, `\:*?"<>|`) {
		return fmt.Errorf("filename %.80q: expected the name of one file: %w", name, ErrInvalid)
	}
	return nil
}

func plain(text string) bool {
	odd := func(r rune) bool { return r == '/' || r == unicode.ReplacementChar || !unicode.IsPrint(r) }
	return len(text) <= maxName && !strings.ContainsFunc(text, odd)
}

// CompareVersions orders versions: the parts between dots as numbers where both
// are, else as texts.
func CompareVersions(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a, _ = strings.Cut(strings.TrimPrefix(a, "v"), ".")
		y, b, _ = strings.Cut(strings.TrimPrefix(b, "v"), ".")
		if order := comparePart(x, y); order != 0 {
			return order
		}
	}
	return 0
}

func comparePart(x, y string) int {
	m, errX := strconv.ParseUint(cmp.Or(x, "0"), 10, 64)
	n, errY := strconv.ParseUint(cmp.Or(y, "0"), 10, 64)
	if errX == nil && errY == nil {
		return cmp.Compare(m, n)
	}
	return cmp.Compare(x, y)
}

func protoOf(t *artifacts.Tool) *buspb.ToolDefinition {
	return &buspb.ToolDefinition{
		Name: t.Name, Version: t.Version, Url: t.URL, GithubProject: t.GithubProject, GithubAssetRegex: t.GithubAssetRegex,
		ServeLocally: t.ServeLocally, ExpectedHash: t.ExpectedHash, Filename: t.Filename,
	}
}

func toolOf(d *buspb.ToolDefinition) *artifacts.Tool {
	return &artifacts.Tool{
		Name: d.GetName(), Version: d.GetVersion(), URL: d.GetUrl(), GithubProject: d.GetGithubProject(), GithubAssetRegex: d.GetGithubAssetRegex(),
		ServeLocally: d.GetServeLocally(), ExpectedHash: d.GetExpectedHash(), Filename: d.GetFilename(),
	}
}
