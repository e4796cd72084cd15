package api

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"raptorpack/users"
)

// Cookies of names with this prefix are only sent over TLS and to this host.
const sessionCookie = "__Host-raptorpack"

const (
	sessionLife = 12 * time.Hour
	nodeURI     = "raptorpack:node"
	localURI    = "raptorpack:local"
)

// LocalPrefix begins the name of whoever holds the server's file; no account's name
// can.
const LocalPrefix = "local:"

// Principal is who a request comes from.
type Principal struct {
	Name    string // an account, or "local:<user>" for a command on the server's host
	Local   bool   // holds the server's file: no account, all permissions
	Address string
	Secret  string // the session, for signing out; empty with a certificate
}

type (
	principalKey struct{}
	addressKey   struct{}
)

// addressOf is where a request comes from, whoever sends it.
func addressOf(ctx context.Context) string {
	address, _ := ctx.Value(addressKey{}).(string)
	return address
}

// admit turns callers away whose address is not allowed.
func (s *Server) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.allowed(r.RemoteAddr) {
			s.log.Warn("caller comes from an address that is not allowed", "address", r.RemoteAddr)
			writeProblem(w, huma.NewError(http.StatusForbidden, "this address is not allowed"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// identify finds out who a request comes from. Unknown callers go on: only
// signing in and health need nobody.
func (s *Server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		address := host(r.RemoteAddr)
		who, err := s.callerOf(r, address)
		if err != nil && !errors.Is(err, errNobody) {
			s.log.Info("caller refused", "address", r.RemoteAddr, "err", err)
		}
		ctx := context.WithValue(r.Context(), principalKey{}, who)
		ctx = context.WithValue(ctx, addressKey{}, address)
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// allowed holds the caller's address against Options.Allowed.
func (s *Server) allowed(remote string) bool {
	if len(s.o.Allowed) == 0 {
		return true
	}
	at, err := netip.ParseAddrPort(remote)
	return err == nil && slices.ContainsFunc(s.o.Allowed, func(p netip.Prefix) bool { return p.Contains(at.Addr().Unmap()) })
}

var errNobody = errors.New("not signed in")

// host is a connection's address without its port.
func host(remote string) string {
	address, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return address
}

func (s *Server) callerOf(r *http.Request, address string) (*Principal, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return s.certificateHolder(r.TLS.PeerCertificates[0], address)
	}
	secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if cookie, err := r.Cookie(sessionCookie); !ok && err == nil {
		secret, ok = cookie.Value, true
	}
	if !ok {
		return nil, errNobody
	}
	account, err := s.o.Users.SessionUser(secret, time.Now())
	if err != nil {
		return nil, err
	}
	return &Principal{Name: account.Name, Address: address, Secret: secret}, nil
}

// certificateHolder is the account that a verified certificate names. Nodes have
// no business at this door.
func (s *Server) certificateHolder(c *x509.Certificate, address string) (*Principal, error) {
	uris := make([]string, len(c.URIs))
	for i, u := range c.URIs {
		uris[i] = u.String()
	}
	if slices.Contains(uris, nodeURI) {
		return nil, fmt.Errorf("a node's certificate: %w", users.ErrDenied)
	}
	if slices.Contains(uris, localURI) {
		return &Principal{Name: LocalPrefix + c.Subject.CommonName, Local: true, Address: address}, nil
	}
	account, err := s.o.Users.Account(c.Subject.CommonName)
	if err != nil || account.Locked {
		return nil, fmt.Errorf("certificate of %.80q: %w", c.Subject.CommonName, users.ErrDenied)
	}
	return &Principal{Name: account.Name, Address: address}, nil
}

// localRoles are those of whoever holds the server's file.
var localRoles = []string{"org_admin"}

// check asks whether who may do something now, whatever held when the request
// came: an account that is locked or loses a role loses it for what still runs in
// its name, too.
func (s *Server) check(who *Principal, permission users.Permission) error {
	if who.Local {
		return users.CheckRoles(who.Name, localRoles, permission)
	}
	return s.o.Users.Check(who.Name, permission)
}

// may returns who is asking if they have all of the permissions.
func (s *Server) may(ctx context.Context, needed ...users.Permission) (*Principal, error) {
	who, _ := ctx.Value(principalKey{}).(*Principal)
	if who == nil {
		return nil, errNobody
	}
	for _, permission := range needed {
		if err := s.check(who, permission); err != nil {
			return nil, err
		}
	}
	return who, nil
}

// Audit keeps what who did; a change whose trail cannot be kept has happened
// nevertheless, so the failure is logged and counted, not answered. Nor does the answer
// wait for ever while the filestore hangs: the line is kept when it is back, or counted
// as lost if this server ends before.
func (s *Server) Audit(ctx context.Context, who *Principal, operation, object string, details map[string]string) {
	event := AuditEvent{
		Time: time.Now().UTC(), Principal: who.Name, Address: who.Address, Operation: operation, Object: object, Details: details,
	}
	kept := make(chan struct{})
	s.trails.Go(func() {
		defer close(kept)
		lasting, end := s.untilEnded(context.WithoutCancel(ctx))
		defer end()
		if err := s.o.Audit.Record(lasting, event); err != nil {
			s.metrics.auditLost.Inc()
			s.log.Error("audit line was not kept", "operation", operation, "object", object, "err", err)
		}
	})
	late := time.NewTimer(s.o.AuditWait)
	defer late.Stop()
	select {
	case <-kept:
	case <-late.C:
		s.metrics.auditLate.Inc()
		s.log.Warn("answered before the audit line is kept", "operation", operation, "object", object)
	}
}
