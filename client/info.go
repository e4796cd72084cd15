package client

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/host"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

// infoName is the result name of the self-report; never obfuscated.
const infoName = "Server.Internal.ClientInfo"

// Info describes the host that the agent runs on.
type Info struct {
	Hostname     string `json:"hostname"`
	FQDN         string `json:"fqdn"`
	System       string `json:"system"` // GOOS
	Release      string `json:"release"`
	Architecture string `json:"architecture"`
}

// SystemInfo asks the operating system.
func SystemInfo() (Info, error) {
	name, err := os.Hostname()
	if err != nil {
		return Info{}, fmt.Errorf("host name: %w", err)
	}
	info := Info{Hostname: name, FQDN: name, System: runtime.GOOS, Architecture: runtime.GOARCH}
	if full, err := net.LookupCNAME(name); err == nil && strings.HasPrefix(strings.ToLower(full), strings.ToLower(name)+".") {
		info.FQDN = strings.TrimSuffix(full, ".")
	}
	if platform, _, version, err := host.PlatformInformation(); err == nil {
		info.Release = platform + version
	}
	return info, nil
}

// agentName is what this program calls itself (client_name).
const agentName = "raptorpack"

// report is the self-report as it goes over the wire.
type report struct {
	Info
	Version     string   `json:"client_version"`
	Name        string   `json:"client_name"`
	BuildTime   string   `json:"build_time"`
	BuildURL    string   `json:"build_url"`
	InstallTime int64    `json:"install_time"`
	Labels      []string `json:"labels,omitempty"`
}

// selfReport decides when the next report is due. A report counts once the
// server has answered the check-in that carried it: a report to a server that
// does not know us yet is not lost.
type selfReport struct {
	options  *Options
	identity *Identity

	mu   sync.Mutex
	last time.Time
}

// due gives the message, or nil when none is due.
func (s *selfReport) due(now time.Time) (*wirepb.VeloMessage, error) {
	s.mu.Lock()
	waits := !s.last.IsZero() && now.Sub(s.last) < s.options.InfoInterval
	s.mu.Unlock()
	if waits || s.options.InfoInterval < 0 {
		return nil, nil
	}
	ask := s.options.Info
	if ask == nil {
		ask = SystemInfo
	}
	info, err := ask()
	if err != nil {
		return nil, fmt.Errorf("self-report: %w", err)
	}
	line, err := json.Marshal(report{
		Info: info, Version: s.options.Version, Name: agentName, BuildTime: s.options.BuildTime, BuildURL: s.options.BuildURL,
		InstallTime: s.identity.InstallTime.Unix(), Labels: s.options.Labels,
	})
	if err != nil {
		return nil, fmt.Errorf("self-report: %w", err)
	}
	var random [8]byte
	rand.Read(random[:])
	return &wirepb.VeloMessage{SessionId: ids.Monitoring.String(), VqlResponse: &wirepb.VQLResponse{
		Query: &wirepb.VQLRequest{Name: infoName}, JsonlResponse: string(line) + "\n", TotalRows: 1,
		QueryId: binary.BigEndian.Uint64(random[:]) >> 1, Timestamp: uint64(now.UnixMicro()),
	}}, nil
}

func (s *selfReport) delivered(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = now
}
