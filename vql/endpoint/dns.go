package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"raptorpack/vql"
)

type hostArgs struct {
	Name        string `vql:"name,required" doc:"The name to look up; an address for type PTR."`
	Server      string `vql:"server" doc:"The server to ask, with a port unless that is 53 (the system's)."`
	Type        string `vql:"type" doc:"The type of record (A)."`
	PreferGo    bool   `vql:"prefer_go" doc:"Do not ask the system's own resolver."`
	TrackerOnly bool   `vql:"tracker_only" doc:"Only tell what a tracker of DNS has seen; there is none, so that the answer is NULL."`
}

var (
	errNoTracker  = errors.New("no tracker of DNS is installed")
	errNoResolver = errors.New("server is needed: the system's servers are not known")
)

// dnsPatience is how long one server may take.
const dnsPatience = 5 * time.Second

var hostFunction = vql.NewFunction(vql.Spec{
	Name: "host", Permission: "MACHINE_STATE", Doc: "Looks a name up in the DNS; gives a list of texts.",
}, func(ctx context.Context, scope *vql.Scope, args *hostArgs) (vql.Value, error) {
	if args.TrackerOnly {
		return nil, errNoTracker
	}
	if err := scope.Charge(ctx); err != nil {
		return nil, err
	}
	kind, err := dnsType(args.Type)
	if err != nil {
		return nil, err
	}
	if args.Server == "" && (kind == dns.TypeA || kind == dns.TypeAAAA) {
		return systemHost(ctx, args, kind)
	}
	servers, err := dnsServers(args.Server)
	if err != nil {
		return nil, err
	}
	return askHost(ctx, servers, args.Name, kind)
})

func dnsType(name string) (uint16, error) {
	if name == "" {
		return dns.TypeA, nil
	}
	kind, ok := dns.StringToType[strings.ToUpper(name)]
	if !ok {
		return 0, fmt.Errorf("unknown type of record %q", name)
	}
	return kind, nil
}

func systemHost(ctx context.Context, args *hostArgs, kind uint16) (vql.Value, error) {
	network := "ip4"
	if kind == dns.TypeAAAA {
		network = "ip6"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*dnsPatience)
	defer cancel()
	resolver := &net.Resolver{PreferGo: args.PreferGo}
	addresses, err := resolver.LookupIP(ctx, network, args.Name)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(addresses))
	for _, a := range addresses {
		out = append(out, a.String())
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// dnsServers are those to ask, with their ports.
func dnsServers(server string) ([]string, error) {
	if server != "" {
		if _, _, err := net.SplitHostPort(server); err == nil {
			return []string{server}, nil
		}
		return []string{net.JoinHostPort(strings.Trim(server, "[]"), "53")}, nil
	}
	c, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil || len(c.Servers) == 0 {
		return nil, errors.Join(errNoResolver, err)
	}
	var out []string
	for _, s := range c.Servers {
		out = append(out, net.JoinHostPort(s, c.Port))
	}
	return out, nil
}

// askHost asks one server after the other until one answers.
func askHost(ctx context.Context, servers []string, name string, kind uint16) (vql.Value, error) {
	question := dns.Fqdn(name)
	if kind == dns.TypePTR {
		if reverse, err := dns.ReverseAddr(name); err == nil {
			question = reverse
		}
	}
	if _, ok := dns.IsDomainName(question); !ok {
		return nil, fmt.Errorf("%q is no name", name)
	}
	var errs error
	for _, server := range servers {
		answer, err := ask(ctx, server, question, kind)
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("ask %s: %w", server, err))
			continue
		}
		if answer.Rcode != dns.RcodeSuccess {
			return nil, fmt.Errorf("%s: %s", question, dns.RcodeToString[answer.Rcode])
		}
		return dnsTexts(answer, kind), nil
	}
	return nil, errs
}

// ask asks by UDP, and by TCP when the answer is too long for that.
func ask(ctx context.Context, server, question string, kind uint16) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetQuestion(question, kind)
	m.SetEdns0(4096, false)
	client := &dns.Client{Timeout: dnsPatience}
	answer, _, err := client.ExchangeContext(ctx, m, server)
	if err == nil && answer.Truncated {
		client.Net = "tcp"
		answer, _, err = client.ExchangeContext(ctx, m, server)
	}
	return answer, err
}

func dnsTexts(answer *dns.Msg, kind uint16) []string {
	out := []string{}
	for _, r := range answer.Answer {
		if r.Header().Rrtype != kind && kind != dns.TypeANY {
			continue // an alias on the way
		}
		out = append(out, strings.TrimPrefix(r.String(), r.Header().String()))
	}
	return out
}
