package endpoint

import (
	"context"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v4/host"
	"raptorpack/vql"
)

var infoColumns = []string{
	"Hostname", "Uptime", "BootTime", "OS", "Platform", "PlatformFamily", "PlatformVersion", "KernelVersion",
	"VirtualizationSystem", "VirtualizationRole", "CompilerVersion", "HostID", "Exe", "CWD", "IsAdmin", "ClientStart",
	"LocalTZ", "LocalTZOffset", "Fqdn", "Architecture",
}

// processStart is when this program began; queries see it as ClientStart.
var processStart = time.Now().UTC()

var infoPlugin = vql.NewPlugin(vql.Spec{
	Name: "info", Permission: "MACHINE_STATE", Doc: "Describes this machine in one row.", Columns: infoColumns,
}, func(ctx context.Context, scope *vql.Scope, _ *struct{}, emit vql.Emit) error {
	row := hostInfo(ctx)
	remappingOf(scope).impersonate(row)
	return emit(row)
})

var infoFunction = vql.NewFunction(vql.Spec{
	Name: "info", Permission: "MACHINE_STATE", Doc: "Describes this machine.",
}, func(ctx context.Context, scope *vql.Scope, _ *struct{}) (vql.Value, error) {
	row := hostInfo(ctx)
	remappingOf(scope).impersonate(row)
	return row, nil
})

// hostInfo never fails: preconditions ask for OS, and a machine without an
// os-release file still has one.
func hostInfo(ctx context.Context) *vql.Dict {
	h, err := host.InfoWithContext(ctx)
	if h == nil || err != nil && h.OS == "" {
		h = &host.InfoStat{OS: runtime.GOOS}
	}
	name := h.Hostname
	if name == "" {
		name, _ = os.Hostname() // empty when the machine has none
	}
	exe, _ := os.Executable() // empty when it was removed while running
	cwd, _ := os.Getwd()      // the same
	zone, offset := time.Now().Zone()
	row := vql.NewDict()
	row.Set("Hostname", name)
	row.Set("Uptime", h.Uptime)
	row.Set("BootTime", h.BootTime)
	row.Set("OS", runtime.GOOS)
	row.Set("Platform", h.Platform)
	row.Set("PlatformFamily", h.PlatformFamily)
	row.Set("PlatformVersion", h.PlatformVersion)
	row.Set("KernelVersion", h.KernelVersion)
	row.Set("VirtualizationSystem", h.VirtualizationSystem)
	row.Set("VirtualizationRole", h.VirtualizationRole)
	row.Set("CompilerVersion", runtime.Version())
	row.Set("HostID", h.HostID)
	row.Set("Exe", exe)
	row.Set("CWD", cwd)
	row.Set("IsAdmin", isAdmin())
	row.Set("ClientStart", processStart)
	row.Set("LocalTZ", zone)
	row.Set("LocalTZOffset", int64(offset))
	row.Set("Fqdn", fqdn(ctx, name))
	row.Set("Architecture", runtime.GOARCH)
	return row
}

// fqdn asks the resolver for the full name of this machine, briefly: a machine cut
// off from its name server must still answer.
func fqdn(ctx context.Context, name string) string {
	if name == "" || strings.Contains(name, ".") {
		return name
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	full, err := net.DefaultResolver.LookupCNAME(ctx, name)
	full = strings.TrimSuffix(full, ".")
	if err != nil || full == "" || !strings.HasPrefix(full, name) {
		return name
	}
	return full
}

var interfacesPlugin = vql.NewPlugin(vql.Spec{
	Name: "interfaces", Permission: "MACHINE_STATE", Doc: "Lists network interfaces with their addresses.",
	Columns: []string{
		"Name", "HardwareAddr", "HardwareAddrString", "MTU", "Index", "Flags", "Loopback", "PointToPoint", "Up",
		"Addrs", "AddrsString", "MulticastAddrs", "MulticastAddrsString",
	},
}, func(_ context.Context, _ *vql.Scope, _ *struct{}, emit vql.Emit) error {
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range all {
		if err := emit(interfaceRow(i)); err != nil {
			return err
		}
	}
	return nil
})

func interfaceRow(i net.Interface) *vql.Dict {
	flag := func(f net.Flags) string {
		if i.Flags&f != 0 {
			return "Y"
		}
		return "N"
	}
	addrs, _ := i.Addrs()              // none when the interface went away
	multicast, _ := i.MulticastAddrs() // the same
	list, text := addressList(addrs)
	multi, multiText := addressList(multicast)
	row := vql.NewDict()
	row.Set("Name", i.Name)
	row.Set("HardwareAddr", []byte(i.HardwareAddr))
	row.Set("HardwareAddrString", i.HardwareAddr.String())
	row.Set("MTU", int64(i.MTU))
	row.Set("Index", int64(i.Index))
	row.Set("Flags", i.Flags.String())
	row.Set("Loopback", flag(net.FlagLoopback))
	row.Set("PointToPoint", flag(net.FlagPointToPoint))
	row.Set("Up", flag(net.FlagUp))
	row.Set("Addrs", list)
	row.Set("AddrsString", text)
	row.Set("MulticastAddrs", multi)
	row.Set("MulticastAddrsString", multiText)
	return row
}

func addressList(addrs []net.Addr) (list, text []vql.Value) {
	list, text = []vql.Value{}, []vql.Value{}
	for _, a := range addrs {
		d := vql.NewDict()
		ip := a.String()
		if n, ok := a.(*net.IPNet); ok {
			ip = n.IP.String()
			d.Set("IP", ip)
			d.Set("Mask", net.IP(n.Mask).String())
		} else {
			d.Set("IP", ip)
		}
		list = append(list, d)
		text = append(text, a.String())
	}
	return list, text
}
