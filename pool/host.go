package pool

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"raptorpack/client"
)

// Host is the machine that a simulated agent stands on. Everything about it
// follows from its number and its fleet's seed: the same number is the same host,
// tomorrow too. It holds no rows; each question makes its answer, so that ten
// thousand idle hosts cost nothing.
type Host struct {
	fleet  *fleet
	number int
	system string // GOOS
	role   string
}

// fleet is what hosts have in common.
type fleet struct {
	seed  uint64
	mix   []part
	bulk  map[string]int64
	epoch time.Time // hosts were booted some time before
}

// part is so many hosts of a kind.
type part struct {
	hosts        int
	system, role string
}

// plausible is the mix of 20 hosts, by system.
var plausible = []part{{5, "linux", "web"}, {3, "linux", "db"}, {2, "linux", "node"}, {7, "windows", "lap"}, {1, "windows", "dc"}, {2, "darwin", "mac"}}

// mixOf weighs the plausible mix by systems; without any it is as it is.
func mixOf(systems map[string]int) []part {
	if len(systems) == 0 {
		return plausible
	}
	sums := map[string]int{}
	for _, p := range plausible {
		sums[p.system] += p.hosts
	}
	var mix []part
	for _, p := range plausible {
		// 40 is divisible by each sum, so systems keep their proportion exactly.
		p.hosts *= systems[p.system] * 40 / sums[p.system]
		mix = append(mix, p)
	}
	return mix
}

// maxPart bounds one part of a mix.
const maxPart = 1000

func checkMix(systems map[string]int) error {
	sum := 0
	for system, parts := range systems {
		known := slices.ContainsFunc(plausible, func(p part) bool { return p.system == system })
		if !known || parts < 0 || parts > maxPart {
			return fmt.Errorf("%w: %d parts of the hosts with system %q", errOption, parts, system)
		}
		sum += parts
	}
	if len(systems) > 0 && sum == 0 {
		return fmt.Errorf("%w: no part of the hosts has a system", errOption)
	}
	return nil
}

// newHost makes host number. Neighbours differ: it walks the mix in steps that have no
// divisor in common with its sum.
func newHost(number int, f *fleet) *Host {
	h := &Host{fleet: f, number: number}
	sum := 0
	for _, p := range f.mix {
		sum += p.hosts
	}
	step := max(7, sum*7/20)
	for gcd(step, sum) != 1 {
		step++
	}
	place := (number%sum*step + int(f.seed%uint64(sum))) % sum
	for _, p := range f.mix {
		if place -= p.hosts; place < 0 {
			h.system, h.role = p.system, p.role
			break
		}
	}
	return h
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// other is a host of the same fleet.
func (h *Host) other(number int) *Host { return newHost(number, h.fleet) }

// chance is the same sequence for the same host and subject.
func (h *Host) chance(subject string) *rand.Rand {
	sum := fnv.New64a()
	sum.Write([]byte(subject)) // never fails
	return rand.New(rand.NewPCG(uint64(h.number), sum.Sum64()^mix(h.fleet.seed)^mix(0)))
}

func (h *Host) name() string { return fmt.Sprintf("%s-%05d", h.role, h.number) }

func (h *Host) fqdn() string { return h.name() + ".pool.example" }

// platform is family, name and version of the system.
func (h *Host) platform() (family, name, version, kernel string) {
	pick := h.chance("platform").IntN(3)
	switch h.system {
	case "windows":
		return "Standalone Workstation", "Microsoft Windows 11 Pro", []string{"10.0.22631", "10.0.26100", "10.0.26200"}[pick], "10.0." + []string{"22631.4460", "26100.2314", "26200.5001"}[pick]
	case "darwin":
		return "Standalone Workstation", "darwin", []string{"14.7", "15.3", "15.5"}[pick], "24.5.0"
	}
	return "debian", []string{"debian", "ubuntu", "debian"}[pick], []string{"12.9", "24.04", "13.1"}[pick], []string{"6.1.0-28-amd64", "6.8.0-51-generic", "6.12.41-amd64"}[pick]
}

func (h *Host) architecture() string {
	if h.system == "darwin" {
		return "arm64"
	}
	return "amd64"
}

// mac and address are this host's alone.
func (h *Host) mac() string {
	return fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", byte(h.number>>24), byte(h.number>>16), byte(h.number>>8), byte(h.number))
}

func (h *Host) address() string {
	n := h.number + 1<<16
	return fmt.Sprintf("10.%d.%d.%d", byte(n>>16), byte(n>>8), byte(n))
}

// booted is some moment of the weeks before the identities were made, the same at
// each question.
func (h *Host) booted() time.Time {
	back := time.Duration(h.chance("boot").IntN(40*24*3600)) * time.Second
	return h.fleet.epoch.Add(-back)
}

func (h *Host) info() client.Info {
	_, name, version, _ := h.platform()
	return client.Info{Hostname: h.name(), FQDN: h.fqdn(), System: h.system, Release: name + version, Architecture: h.architecture()}
}

// account is a person with an account on a host.
type account struct {
	name, full string
	uid        int
}

var people = strings.Fields("ada barbara charles dorothy edsger frances grace hedy ivan joan katherine leslie margaret niklaus " +
	"olga peter radia sophie tony ursula vint whitfield xenia yukihiro zuse")

func (h *Host) accounts() []account {
	r := h.chance("accounts")
	out := make([]account, 1+r.IntN(5))
	for i, person := range r.Perm(len(people))[:len(out)] {
		name := people[person]
		out[i] = account{name: name, full: strings.ToUpper(name[:1]) + name[1:], uid: 1000 + i}
	}
	return out
}

// process is one process of a host.
type process struct {
	pid, ppid       int
	name, exe, line string
	user            string
	rss             int64
	cpu             float64
	started         time.Time
}

var programs = map[string][]string{
	"linux": {
		"/usr/sbin/sshd -D", "/usr/sbin/cron -f", "/usr/lib/systemd/systemd-journald", "/usr/lib/systemd/systemd-udevd", "/usr/sbin/rsyslogd -n -iNONE",
		"/usr/sbin/nginx -g daemon on; master_process on;", "/usr/lib/postgresql/17/bin/postgres -D /var/lib/postgresql/17/main", "/usr/bin/dbus-daemon --system",
		"/usr/bin/containerd", "/bin/bash", "/usr/bin/python3 /opt/app/worker.py --queue default", "/usr/lib/polkit-1/polkitd --no-debug", "/usr/sbin/chronyd -F 1",
	},
	"windows": {
		`C:\Windows\System32\svchost.exe -k netsvcs -p -s Schedule`, `C:\Windows\System32\lsass.exe`, `C:\Windows\System32\services.exe`, `C:\Windows\explorer.exe`,
		`C:\Windows\System32\svchost.exe -k LocalServiceNetworkRestricted -p`, `C:\Windows\System32\dwm.exe`, `C:\Windows\System32\conhost.exe 0x4`,
		`C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe -NoProfile`, `C:\Windows\System32\spoolsv.exe`, `C:\Windows\System32\taskhostw.exe`,
	},
	"darwin": {
		"/usr/libexec/logd", "/usr/sbin/cfprefsd daemon", "/System/Library/CoreServices/Finder.app/Contents/MacOS/Finder", "/usr/libexec/trustd", "/bin/zsh -l",
		"/System/Library/PrivateFrameworks/SkyLight.framework/Resources/WindowServer -daemon", "/usr/sbin/mDNSResponder", "/usr/libexec/opendirectoryd",
	},
}

func (h *Host) processes() []process {
	r := h.chance("processes")
	booted, accounts, choice := h.booted(), h.accounts(), programs[h.system]
	out := make([]process, 40+r.IntN(80))
	for i := range out {
		line := choice[r.IntN(len(choice))]
		exe, _, _ := strings.Cut(line, " ")
		p := process{
			pid: 1 + i*7 + r.IntN(7), name: exe[strings.LastIndexAny(exe, `/\`)+1:], exe: exe, line: line, user: "root",
			rss: int64(1+r.IntN(200_000)) * 4096, cpu: float64(r.IntN(100_000)) / 100, started: booted.Add(time.Duration(r.IntN(86_400)) * time.Second),
		}
		if i > 0 {
			p.ppid = out[r.IntN(i)].pid
			if r.IntN(3) == 0 {
				p.user = accounts[r.IntN(len(accounts))].name
			}
		}
		out[i] = p
	}
	return out
}
