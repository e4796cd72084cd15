package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"raptorpack/config"
	"raptorpack/internal/subject"
)

// door is how a command reaches a server: where, whom it trusts, and as whom it
// comes.
type door struct {
	url    string // of the JSON door, without a slash at its end
	grpc   string // host:port of the programs' door; empty: not known
	most   int    // bytes that a message of the programs' door may have
	key    string // API key, empty with a certificate
	tls    *tls.Config
	pinned bool // the server must show the deployment's own certificate
}

// remoteFlags adds what commands need that talk to a server.
func (g *globals) remoteFlags(c *cobra.Command) *cobra.Command {
	flags := c.PersistentFlags()
	flags.StringVar(&g.server, "server", env("SERVER", ""), "address of a server, as https://pack.example:8889 (RAPTORPACK_SERVER)")
	flags.StringVar(&g.apiClient, "api-client", env("API_CLIENT", ""), "file of config api-client: who we are (RAPTORPACK_API_CLIENT; or an API key in RAPTORPACK_API_KEY)")
	flags.StringVar(&g.ca, "ca", env("CA", ""), "file with the deployment's CA certificate, to go with an API key; left out, the host's own list counts (RAPTORPACK_CA)")
	return c
}

// formatFlag adds --format.
func (g *globals) formatFlag(c *cobra.Command) *cobra.Command {
	c.PersistentFlags().StringVar(&g.format, "format", env("FORMAT", ""), "table, json, jsonl or csv; left out: a table on a terminal, else jsonl")
	return c
}

// asksServer reports whether a command that also works by itself was told on its
// command line to ask a server instead. What the environment says only fills in.
func asksServer(c *cobra.Command) bool {
	for _, name := range []string{"server", "api-client", "config"} {
		if flag := c.Flags().Lookup(name); flag != nil && flag.Changed {
			return true
		}
	}
	return false
}

// openDoor decides how to reach the server: an address with a certificate or key,
// else the server's own file on its own host. What stands on the command line wins
// over the environment, so that nothing is done to another deployment than meant.
func (g *globals) openDoor(c *cobra.Command) (*door, error) {
	key, err := secret(env("API_KEY", ""))
	if err != nil {
		return nil, fmt.Errorf("RAPTORPACK_API_KEY: %w", err)
	}
	flags := c.Flags()
	own, far := flags.Changed("config"), flags.Changed("server") || flags.Changed("api-client")
	switch {
	case own && far:
		return nil, usage("--config names the server by its own file, --server and --api-client name it from elsewhere: give one or the other")
	case own:
		return g.ownDoor(c, key)
	case g.server != "" || g.apiClient != "":
		return g.farDoor(key)
	case g.config != "":
		return g.ownDoor(c, key)
	}
	return nil, fmt.Errorf("which server? Give --server URL with --api-client FILE or an API key in RAPTORPACK_API_KEY, or on its own host --config server.yaml: %w", errUsage)
}

// secret takes a value as it is, or from the file or variable that it names.
func secret(value string) (string, error) {
	if name, ok := strings.CutPrefix(value, "file:"); ok {
		text, err := os.ReadFile(name)
		return strings.TrimSpace(string(text)), err
	}
	if name, ok := strings.CutPrefix(value, "env:"); ok {
		return os.Getenv(name), nil
	}
	return value, nil
}

// farDoor is a server that was named by its address.
func (g *globals) farDoor(key string) (*door, error) {
	d := &door{key: key, most: maxGRPCMessage, tls: &tls.Config{MinVersion: tls.VersionTLS12}}
	if g.server != "" {
		base, err := url.Parse(g.server)
		if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
			return nil, fmt.Errorf("--server %q: expected an address as https://pack.example:8889: %w", g.server, errUsage)
		}
		d.url = strings.TrimRight(base.Scheme+"://"+base.Host+base.Path, "/")
	}
	if g.apiClient != "" {
		file, err := config.LoadAPIClient(g.apiClient)
		if err != nil {
			return nil, &exitError{exitUsage, err}
		}
		d.grpc = file.ConnectionString
		if file.MaxGRPCRecvSize > 0 {
			d.most = file.MaxGRPCRecvSize
		}
		return d, d.pin(file.CACertificate, file.PinnedServerName, config.Pair{Certificate: file.ClientCert, PrivateKey: file.ClientPrivateKey})
	}
	if key == "" {
		return nil, fmt.Errorf("who are you? Give --api-client FILE, or an API key in RAPTORPACK_API_KEY: %w", errUsage)
	}
	if g.ca == "" {
		return d, nil
	}
	text, err := os.ReadFile(g.ca)
	if err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("--ca: %w", err)}
	}
	return d, d.pin(string(text), "", config.Pair{})
}

// ownDoor is the server whose file we have: a certificate is signed on the spot.
func (g *globals) ownDoor(c *cobra.Command, key string) (*door, error) {
	loaded, err := g.load(c, config.Options{})
	if err != nil {
		return nil, err
	}
	d := &door{
		url:  "https://" + net.JoinHostPort(reachable(loaded.GUI.BindAddress), strconv.Itoa(loaded.GUI.BindPort)),
		grpc: net.JoinHostPort(reachable(loaded.API.BindAddress), strconv.Itoa(loaded.API.BindPort)),
		tls:  &tls.Config{MinVersion: tls.VersionTLS12}, key: key, most: maxGRPCMessage,
	}
	if loaded.GUI.UsePlainHTTP {
		d.url = "http://" + strings.TrimPrefix(d.url, "https://")
		if key == "" {
			return nil, fmt.Errorf("%s has GUI.use_plain_http: certificates cannot work there, put an API key into RAPTORPACK_API_KEY (users key NAME makes one): %w", g.config, errUsage)
		}
	}
	pair := config.Pair{}
	if key == "" {
		if pair, err = loaded.LocalCaller(accountName(), time.Now()); err != nil {
			return nil, fmt.Errorf("sign a certificate for this command: %w", err)
		}
	}
	return d, d.pin(loaded.Client.CACertificate, loaded.Client.PinnedServerName, pair)
}

// reachable is the address to dial for one that was bound.
func reachable(bound string) string {
	switch bound {
	case "", "0.0.0.0":
		return "127.0.0.1"
	case "::":
		return "::1"
	}
	return bound
}

// accountName is who runs the command, for the audit trail.
func accountName() string {
	if who, err := user.Current(); err == nil && who.Username != "" {
		return who.Username
	}
	return "unknown"
}

var errNotPinned = errors.New("the server's certificate is not the deployment's")

// pin trusts only servers whose certificate the deployment's CA signed for the
// pinned name; which host name was dialled does not matter. An empty name leaves
// the check to the CA and the server usage.
func (d *door) pin(authority, name string, caller config.Pair) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(authority)) {
		return fmt.Errorf("no CA certificate in the file: %w", errUsage)
	}
	if caller.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(caller.Certificate), []byte(caller.PrivateKey))
		if err != nil {
			return fmt.Errorf("the caller's certificate: %w", err)
		}
		d.tls.Certificates = []tls.Certificate{pair}
	}
	d.pinned = true
	d.tls.InsecureSkipVerify = true // the next line verifies, by another name
	d.tls.VerifyConnection = func(state tls.ConnectionState) error { return verifyPinned(state, roots, name) }
	return nil
}

func verifyPinned(state tls.ConnectionState, roots *x509.CertPool, name string) error {
	if len(state.PeerCertificates) == 0 {
		return errNotPinned
	}
	between := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	leaf := state.PeerCertificates[0]
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: usages}); err != nil {
		return fmt.Errorf("%w: %w", errNotPinned, err)
	}
	if name != "" && subject.Name(leaf) != name && leaf.VerifyHostname(name) != nil {
		return fmt.Errorf("%w: it is for %.80q, expected %q", errNotPinned, subject.Name(leaf), name)
	}
	return nil
}
