// Package agent is the composition root of the agent: it turns the operators'
// client file into a running client.
//
// It is a package beside main, so that tests and load tools build agents as the
// program does. It decides nothing about the protocol or about queries.
package agent

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/artifacts"
	"raptorpack/client"
	"raptorpack/collector"
	"raptorpack/config"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
	"raptorpack/wire"
)

// Settings are what the client file does not say.
type Settings struct {
	Version    string
	Registerer prometheus.Registerer
	Logger     *slog.Logger

	// Writeback and Buffer replace the places that the file names; empty keeps them.
	Writeback string
	Buffer    string

	// MinBackOff shortens the first pauses after failures, for tests; 0: as the
	// protocol says.
	MinBackOff time.Duration

	// History names a file that every acknowledgement is written to, for tests.
	History string
}

// Engine holds what queries may call on an endpoint.
func Engine() (*vql.Engine, error) {
	return vql.NewEngine(endpoint.Functions(), append(endpoint.Plugins(), collector.Plugin))
}

// Options turns the client section of a file into the options of an agent.
func Options(c config.Client, s Settings) (client.Options, error) {
	engine, err := Engine()
	if err != nil {
		return client.Options{}, err
	}
	if s.Registerer != nil {
		engine = engine.Counted(vql.NewMetrics(s.Registerer))
		endpoint.Yara().Register(s.Registerer)
	}
	transport, err := wire.NewTransport(TransportOptions(c))
	if err != nil {
		return client.Options{}, fmt.Errorf("client transport: %w", err)
	}
	o := client.Options{
		ServerURLs: c.ServerURLs, UpgradeHTTP: true, CA: []byte(c.CACertificate), PinnedName: c.PinnedServerName, Nonce: c.Nonce,
		Transport: transport, DisableCompression: c.DisableCompression,
		WritebackPath: expand(pick(c.WritebackLinux, c.WritebackDarwin, c.WritebackWindows), c.Nonce), WritebackSuffix: c.Level2Suffix,
		Engine: engine, Accessors: endpoint.Accessors(), Artifacts: Bundle,
		Labels: c.Labels, Version: s.Version,
		MaxPoll: seconds(c.MaxPollSeconds), MaxPollStd: seconds(c.MaxPollStdSeconds), MinPoll: seconds(c.MinPollSeconds),
		MaxUploadSize: c.MaxUploadBytes, MinBackOff: s.MinBackOff, NannyDelay: seconds(c.NannyMaxConnectionSeconds),
		MaxMemory: int64(c.MaxMemoryHardLimitBytes), Concurrency: c.Concurrency, FlowUpdate: seconds(c.FlowStatsUpdateSeconds),
		MaxWait: seconds(c.DefaultMaxWaitSeconds), InfoInterval: time.Duration(c.ClientInfoUpdateSeconds) * time.Second,
		TempDir: expand(pick(c.TempdirLinux, c.TempdirDarwin, c.TempdirWindows), c.Nonce),
		Logger:  s.Logger, Metrics: client.NewMetrics(s.Registerer),
	}
	web, err := webSettings(c)
	if err != nil {
		return client.Options{}, err
	}
	o.Services = append(o.Services, web)
	if c.PreventExecve {
		o.Services = append(o.Services, noPrograms{})
	}
	if s.Writeback != "" {
		o.WritebackPath = s.Writeback
	}
	if s.History != "" {
		history, err := OpenHistory(s.History)
		if err != nil {
			return client.Options{}, err
		}
		o.Acknowledged = history.Take
	}
	o.Buffer = bufferOptions(c.LocalBuffer, c.Nonce, s)
	o.Buffer.Metrics, o.Buffer.Logger = o.Metrics, s.Logger
	return o, nil
}

// noPrograms is the endpoint's own word that no query starts programs
// (prevent_execve).
type noPrograms struct{}

var errNoPrograms = errors.New("this agent's configuration forbids programs (prevent_execve)")

// AllowExec implements endpoint.ExecPolicy.
func (noPrograms) AllowExec([]string) error { return errNoPrograms }

// Bundle answers calls of the artifacts that came with a request.
func Bundle(bundled []*wirepb.Artifact) (vql.Artifacts, error) { return artifacts.FromWire(bundled) }

// bufferOptions gives our buffer a folder beside the file that the stock agent
// would use: ours holds several files.
func bufferOptions(b config.LocalBuffer, nonce string, s Settings) client.BufferOptions {
	o := client.BufferOptions{DiskBytes: int64(b.DiskBytes), MemoryBytes: int64(b.MemoryBytes)}
	if file := expand(pick(b.FilenameLinux, b.FilenameDarwin, b.FilenameWindows), nonce); file != "" && b.DiskBytes > 0 {
		o.Dir = file + ".d"
	}
	if s.Buffer != "" {
		o.Dir = s.Buffer
	}
	return o
}

// TransportOptions is an agent's way to its servers, as the file has it.
func TransportOptions(c config.Client) wire.TransportOptions {
	return wire.TransportOptions{
		TLS: wire.TLSOptions{
			CA: []byte(c.CACertificate), Roots: []byte(c.Crypto.RootCerts), Mode: c.Crypto.CertificateVerificationMode,
			Thumbprints: c.Crypto.CertificateThumbprints, SelfSigned: c.UseSelfSignedSSL, PinnedName: c.PinnedServerName,
			ClientCertificate: []byte(c.Crypto.ClientCertificate), ClientKey: []byte(c.Crypto.ClientCertificateKey),
		},
		Proxy: wire.ProxyOptions{
			Proxy: c.Proxy, HTTP: c.ProxyConfig.HTTP, HTTPS: c.ProxyConfig.HTTPS, URLRegexp: c.ProxyConfig.ProxyURLRegexp,
			IgnoreEnvironment: c.ProxyConfig.IgnoreEnvironment,
		},
		ConnectionTimeout: seconds(c.ConnectionTimeoutSeconds), PingWait: seconds(c.WSPingWaitSeconds), Fallback: c.FallbackAddresses,
	}
}

// webSettings let queries reach the agent's own servers as the agent does: through
// its proxy, and trusting what it trusts. Tools are fetched there.
func webSettings(c config.Client) (*endpoint.HTTPSettings, error) {
	o := TransportOptions(c)
	proxy, err := o.Proxy.Choose()
	if err != nil {
		return nil, fmt.Errorf("client proxy: %w", err)
	}
	own := map[string]*tls.Config{}
	for _, text := range c.ServerURLs {
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("server URL: %w", err)
		}
		if own[authority(u)], err = o.TLS.Config(u.Hostname()); err != nil {
			return nil, fmt.Errorf("client TLS: %w", err)
		}
	}
	return &endpoint.HTTPSettings{Proxy: proxy, TLS: func(u *url.URL) *tls.Config { return own[authority(u)] }}, nil
}

// authority is the host and port that a URL means.
func authority(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "ws": "80"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(port, "443"))
}

func pick(linux, darwin, windows string) string {
	switch runtime.GOOS {
	case "windows":
		return windows
	case "darwin":
		return darwin
	}
	return linux
}

var percent = regexp.MustCompile(`%([A-Za-z0-9_()]+)%`)

// expand replaces $VAR, ${VAR} and %VAR% from the environment; NONCE is the
// deployment's nonce without characters that paths do not like.
func expand(path, nonce string) string {
	path = percent.ReplaceAllString(path, "${$1}")
	return os.Expand(path, func(name string) string {
		if name == "NONCE" {
			return strings.Map(func(r rune) rune {
				if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", r) {
					return r
				}
				return '_'
			}, nonce)
		}
		return os.Getenv(name)
	})
}

func seconds(s uint64) time.Duration { return time.Duration(s) * time.Second }
