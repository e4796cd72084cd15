package pool

import (
	"context"
	"errors"
	"net"
	"runtime"
	"time"

	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

// errNoHost means that a session has no Host among its services.
var errNoHost = errors.New("no synthetic host in this session")

// dangerous primitives act on the machine below, which belongs to nobody's
// simulation. Queries that call them are told that they are not there.
var dangerous = map[string]bool{
	"execve": true, "pskill": true, "rm": true, "copy": true, "mail": true, "http_client": true, "write_csv": true, "write_jsonl": true,
	"netcat": true, "unzip": true, "rekey": true, "collect": true,
	"elastic_upload": true, "splunk_upload": true, "logscale_upload": true, "adx_upload": true,
	"upload_s3": true, "upload_gcs": true, "upload_azure": true, "upload_directory": true,
}

// newEngine is the agent's engine with a synthetic host below.
func newEngine() (*vql.Engine, error) {
	functions, plugins := []*vql.Function{infoFunction, memoryFunction}, []*vql.Plugin{
		infoPlugin, interfacesPlugin, pslistPlugin, netstatPlugin,
	}
	replaced := map[string]bool{"connections": true} // its rows are those of netstat, by other names
	for _, f := range functions {
		replaced["function "+f.Spec.Name] = true
	}
	for _, p := range plugins {
		replaced["plugin "+p.Spec.Name] = true
	}
	for _, f := range endpoint.Functions() {
		if !dangerous[f.Spec.Name] && !replaced["function "+f.Spec.Name] {
			functions = append(functions, f)
		}
	}
	for _, p := range endpoint.Plugins() {
		if !dangerous[p.Spec.Name] && !replaced["plugin "+p.Spec.Name] && !replaced[p.Spec.Name] {
			plugins = append(plugins, p)
		}
	}
	return vql.NewEngine(functions, plugins)
}

func hostOf(scope *vql.Scope) (*Host, error) {
	if h, ok := vql.Service[*Host](scope); ok {
		return h, nil
	}
	return nil, errNoHost
}

// rows makes a plugin that emits what a host answers.
func rows(name, doc string, answer func(h *Host) []*vql.Dict) *vql.Plugin {
	spec := vql.Spec{Name: name, Permission: "MACHINE_STATE", Doc: doc}
	return vql.NewPlugin(spec, func(_ context.Context, scope *vql.Scope, _ *struct{}, emit vql.Emit) error {
		h, err := hostOf(scope)
		if err != nil {
			return err
		}
		for _, row := range answer(h) {
			if err := emit(row); err != nil {
				return err
			}
		}
		return nil
	})
}

var infoPlugin = rows("info", "Describes the synthetic host in one row.", func(h *Host) []*vql.Dict { return []*vql.Dict{infoRow(h)} })

var infoFunction = vql.NewFunction(vql.Spec{
	Name: "info", Permission: "MACHINE_STATE", Doc: "Describes the synthetic host.",
}, func(_ context.Context, scope *vql.Scope, _ *struct{}) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	return infoRow(h), nil
})

func infoRow(h *Host) *vql.Dict {
	family, platform, version, kernel := h.platform()
	booted := h.booted()
	row := vql.NewDict()
	row.Set("Hostname", h.name())
	row.Set("Uptime", uint64(time.Since(booted).Seconds()))
	row.Set("BootTime", uint64(booted.Unix()))
	row.Set("OS", h.system)
	row.Set("Platform", platform)
	row.Set("PlatformFamily", family)
	row.Set("PlatformVersion", version)
	row.Set("KernelVersion", kernel)
	row.Set("VirtualizationSystem", "")
	row.Set("VirtualizationRole", "")
	row.Set("CompilerVersion", runtime.Version())
	row.Set("HostID", "00000000-0000-4000-8000-"+h.mac()[:2]+h.mac()[3:5]+h.mac()[6:8]+h.mac()[9:11]+h.mac()[12:14]+h.mac()[15:])
	row.Set("Exe", "/usr/local/bin/raptorpack")
	row.Set("CWD", "/")
	row.Set("IsAdmin", true)
	row.Set("ClientStart", booted.Add(time.Minute))
	row.Set("LocalTZ", "UTC")
	row.Set("LocalTZOffset", int64(0))
	row.Set("Fqdn", h.fqdn())
	row.Set("Architecture", h.architecture())
	return row
}

var memoryFunction = vql.NewFunction(vql.Spec{
	Name: "sysinfo", Permission: "MACHINE_STATE", Doc: "Gives the sizes of memory and swap in bytes.",
}, func(_ context.Context, scope *vql.Scope, _ *struct{}) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	total := uint64(4<<30) << h.chance("memory").IntN(5)
	row := vql.NewDict()
	row.Set("TotalPhysicalMemory", total)
	row.Set("TotalFreeMemory", total/3)
	row.Set("TotalSharedMemory", total/50)
	row.Set("TotalSwap", total/4)
	row.Set("FreeSwap", total/4)
	return row, nil
})

var interfacesPlugin = rows("interfaces", "Lists the synthetic host's network interfaces.", func(h *Host) []*vql.Dict {
	card := "eth0"
	if h.system != "linux" {
		card = map[string]string{"windows": "Ethernet", "darwin": "en0"}[h.system]
	}
	return []*vql.Dict{
		interfaceRow(1, "lo", "", "127.0.0.1", "255.0.0.0", "/8"),
		interfaceRow(2, card, h.mac(), h.address(), "255.255.0.0", "/16"),
	}
})

func interfaceRow(index int64, name, mac, ip, mask, bits string) *vql.Dict {
	loop := "N"
	if mac == "" {
		loop = "Y"
	}
	hardware, _ := net.ParseMAC(mac) // none on loopback
	row := vql.NewDict()
	row.Set("Name", name)
	row.Set("HardwareAddr", []byte(hardware))
	row.Set("HardwareAddrString", mac)
	row.Set("MTU", int64(1500))
	row.Set("Index", index)
	row.Set("Flags", "up|running")
	row.Set("Loopback", loop)
	row.Set("PointToPoint", "N")
	row.Set("Up", "Y")
	row.Set("Addrs", []vql.Value{vql.NewDict().Set("IP", ip).Set("Mask", mask)})
	row.Set("AddrsString", []vql.Value{ip + bits})
	row.Set("MulticastAddrs", []vql.Value{})
	row.Set("MulticastAddrsString", []vql.Value{})
	return row
}

type pslistArgs struct {
	Pid *int64 `vql:"pid" doc:"Show this process only."`
}

var pslistPlugin = vql.NewPlugin(vql.Spec{
	Name: "pslist", Permission: "MACHINE_STATE", Doc: "Lists the synthetic host's processes.",
}, func(ctx context.Context, scope *vql.Scope, args *pslistArgs, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	for _, p := range h.processes() {
		if args.Pid != nil && *args.Pid != int64(p.pid) {
			continue
		}
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		if err := emit(processRow(p)); err != nil {
			return err
		}
	}
	return nil
})

func processRow(p process) *vql.Dict {
	row := vql.NewDict()
	row.Set("Pid", int64(p.pid))
	row.Set("Name", p.name)
	row.Set("Ppid", int64(p.ppid))
	row.Set("CommandLine", p.line)
	row.Set("CreateTime", p.started)
	row.Set("Times", vql.NewDict().Set("user", p.cpu).Set("system", p.cpu/4).Set("children_user", 0.0).Set("children_system", 0.0))
	row.Set("Exe", p.exe)
	row.Set("Cwd", "/")
	row.Set("Username", p.user)
	row.Set("MemoryInfo", vql.NewDict().Set("rss", p.rss).Set("vms", 4*p.rss))
	return row
}

var netstatPlugin = rows("netstat", "Lists the synthetic host's sockets.", func(h *Host) []*vql.Dict {
	r, processes := h.chance("sockets"), h.processes()
	var out []*vql.Dict
	for range 5 + r.IntN(40) {
		status, remote, port := "LISTEN", "0.0.0.0", int64(0)
		if r.IntN(3) > 0 {
			status, remote, port = "ESTAB", h.other(r.IntN(10_000)).address(), int64(1024+r.IntN(60_000))
		}
		row := vql.NewDict()
		row.Set("Fd", int64(3+r.IntN(30)))
		row.Set("Family", int64(2))
		row.Set("FamilyString", "IPv4")
		row.Set("Type", int64(1))
		row.Set("TypeString", "TCP")
		row.Set("Laddr", vql.NewDict().Set("IP", h.address()).Set("Port", int64([]int{22, 80, 443, 5432, 9100}[r.IntN(5)])))
		row.Set("Raddr", vql.NewDict().Set("IP", remote).Set("Port", port))
		row.Set("Status", status)
		row.Set("Pid", int64(processes[r.IntN(len(processes))].pid))
		row.Set("Timestamp", time.Time{})
		out = append(out, row)
	}
	return out
})
