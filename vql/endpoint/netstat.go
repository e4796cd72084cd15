package endpoint

import (
	"context"
	"time"

	"raptorpack/vql"
)

var netstatPlugin = vql.NewPlugin(vql.Spec{
	Name: "netstat", Permission: "MACHINE_STATE", Platforms: []string{"linux"},
	Doc:     "Lists TCP and UDP sockets, once for each process that holds one.",
	Columns: []string{"Fd", "Family", "FamilyString", "Type", "TypeString", "Laddr", "Raddr", "Status", "Pid", "Timestamp"},
}, func(ctx context.Context, scope *vql.Scope, _ *struct{}, emit vql.Emit) error {
	return eachSocket(ctx, scope, func(s *socket, h holder) error { return emit(netstatRow(s, h)) })
})

var connectionsPlugin = vql.NewPlugin(vql.Spec{
	Name: "connections", Permission: "MACHINE_STATE", Platforms: []string{"linux"},
	Doc:     "Lists TCP and UDP sockets with the numbers of the kernel. The case of its keys does not count.",
	Columns: []string{"FD", "Family", "Type", "Laddr", "Raddr", "Status", "Pid", "Uids"},
}, func(ctx context.Context, scope *vql.Scope, _ *struct{}, emit vql.Emit) error {
	return eachSocket(ctx, scope, func(s *socket, h holder) error { return emit(connectionRow(s, h)) })
})

// A holder is a descriptor of a process on a socket; the zero holder is nobody we
// may look at.
type holder struct{ pid, fd int }

// The numbers of Linux, which the rows show.
const (
	familyInet, familyInet6 = 2, 10
	typeStream, typeDgram   = 1, 2
)

func (s *socket) family() (int64, string) {
	if s.v6 {
		return familyInet6, "IPv6"
	}
	return familyInet, "IPv4"
}

func (s *socket) kind() (int64, string) {
	if s.udp {
		return typeDgram, "UDP"
	}
	return typeStream, "TCP"
}

func netstatRow(s *socket, h holder) *vql.Dict {
	family, familyName := s.family()
	kind, kindName := s.kind()
	row := vql.NewDict()
	row.Set("Fd", int64(h.fd))
	row.Set("Family", family)
	row.Set("FamilyString", familyName)
	row.Set("Type", kind)
	row.Set("TypeString", kindName)
	row.Set("Laddr", address(s.local.Addr().String(), s.local.Port(), "IP", "Port"))
	row.Set("Raddr", address(s.remote.Addr().String(), s.remote.Port(), "IP", "Port"))
	row.Set("Status", s.status())
	row.Set("Pid", int64(h.pid))
	row.Set("Timestamp", time.Time{}) // /proc does not tell when a socket was made
	return row
}

func connectionRow(s *socket, h holder) *vql.Dict {
	family, _ := s.family()
	kind, _ := s.kind()
	row := vql.NewDict().SetCaseInsensitive() // artifacts write Laddr.IP, and pid
	row.Set("FD", int64(h.fd))
	row.Set("Family", family)
	row.Set("Type", kind)
	row.Set("Laddr", address(s.local.Addr().String(), s.local.Port(), "ip", "port").SetCaseInsensitive())
	row.Set("Raddr", address(s.remote.Addr().String(), s.remote.Port(), "ip", "port").SetCaseInsensitive())
	row.Set("Status", s.status())
	row.Set("Pid", int64(h.pid))
	row.Set("Uids", []vql.Value{int64(s.uid)})
	return row
}

func address(ip string, port uint16, ipKey, portKey string) *vql.Dict {
	d := vql.NewDict()
	d.Set(ipKey, ip)
	d.Set(portKey, int64(port))
	return d
}
