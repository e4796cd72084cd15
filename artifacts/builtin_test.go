package artifacts_test

import (
	"context"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"raptorpack/artifacts"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loaded are the built-in definitions; nothing here adds to them.
var loaded = sync.OnceValues(artifacts.BuiltIn)

func builtIn(t testing.TB) *artifacts.Repository {
	t.Helper()
	r, err := loaded()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// built is the engine of all sessions: it holds no state of theirs.
var built = sync.OnceValues(func() (*vql.Engine, error) {
	return vql.NewEngine(endpoint.Functions(), endpoint.Plugins())
})

func engine(t testing.TB) *vql.Engine {
	t.Helper()
	e, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// session runs queries and keeps what they log.
type session struct {
	t      testing.TB
	engine *vql.Engine
	repo   *artifacts.Repository

	mu   sync.Mutex
	logs []string
}

func newSession(t testing.TB, repo *artifacts.Repository) *session {
	return &session{t: t, engine: engine(t), repo: repo}
}

func (s *session) run(text string, env *vql.Dict) []*vql.Dict {
	s.t.Helper()
	program, err := vql.Parse(text)
	if err != nil {
		s.t.Fatalf("parse %q: %v", text, err)
	}
	if env == nil {
		env = vql.NewDict()
	}
	env.Set("config", vql.NewDict().Set("Version", vql.NewDict().Set("Name", "raptorpack").Set("Version", "test")).Set("Labels", []string{"lab"}))
	scope := s.engine.NewScope(vql.SessionOptions{
		Env: env, Artifacts: s.repo, Accessors: endpoint.Accessors(),
		Log: func(level, message string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.logs = append(s.logs, level+" "+message)
		},
	})
	defer scope.Close()
	var rows []*vql.Dict
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	if err := scope.RunProgram(ctx, program, func(row *vql.Dict) error {
		rows = append(rows, row)
		return nil
	}); err != nil {
		s.t.Fatalf("run %q: %v", text, err)
	}
	return rows
}

// errors are the lines for which a collection would count as failed.
func (s *session) errors() []string {
	return slices.DeleteFunc(slices.Clone(s.logs), func(line string) bool {
		lower := strings.ToLower(line)
		return !strings.HasPrefix(line, "ERROR") && !strings.Contains(lower, "not found") &&
			!strings.Contains(lower, "is required") && !strings.Contains(lower, "unexpected arg")
	})
}

// The names that the issue and servers rely on.
func TestBuiltInNamesAreThere(t *testing.T) {
	repo := builtIn(t)
	for _, name := range strings.Fields(`Generic.Client.Info Generic.Client.Stats Generic.Client.VQL Generic.System.Pstree
		Generic.Detection.Yara.Glob Linux.Detection.Yara.Process
		Generic.Utils.FetchBinary System.VFS.ListDirectory System.VFS.DownloadFile
		Linux.Sys.Users Linux.Sys.Groups Linux.Sys.BashHistory Linux.Sys.Pslist Linux.Sys.Services Linux.Sys.Crontab
		Linux.Network.Netstat Linux.Network.NetstatEnriched Linux.Mounts Linux.Search.FileFinder Linux.Ssh.AuthorizedKeys
		Linux.Ssh.KnownHosts Linux.Sys.LastUserLogin Linux.Sys.SUID Linux.Debian.Packages Linux.Proc.Modules
		Linux.Proc.Arp Linux.Syslog.SSHLogin System.Flow.Completion System.Hunt.Creation System.Upload.Completion
		Server.Internal.ArtifactModification Server.Internal.ClientDelete Server.Internal.Enrollment
		Server.Internal.Interrogation Server.Internal.Label Server.Internal.MetadataModifications Server.Internal.TimelineAdd
		Linux.Utils.InstallDeb Generic.Utils.SendEmail Server.Enrichment.Virustotal Server.Monitor.Health
		Server.Utils.DeleteMonitoringData Generic.Detection.Yara.Glob Linux.Detection.Yara.Process`) {
		if _, err := repo.Lookup(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBuiltInsCompile(t *testing.T) {
	repo := builtIn(t)
	for _, d := range repo.List() {
		if len(d.Sources) == 0 { // only lends its definitions, or is a queue that the server writes
			continue
		}
		if _, err := repo.Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: d.Name}}}); err != nil {
			t.Errorf("%s: %v", d.Name, err)
		}
	}
}

// What "artifacts verify" would say of each that runs on clients; the command's own
// test knows what servers have to call.
func TestBuiltInsPassTheChecker(t *testing.T) {
	repo := builtIn(t)
	known := endpointPrimitives(t)
	for _, d := range repo.List() {
		if _, err := artifacts.Parse(d.Name+".yaml", []byte(d.Text)); err != nil {
			t.Error(err)
		}
		if d.Type != artifacts.Client && d.Type != artifacts.ClientEvent {
			continue
		}
		for _, p := range repo.Check(d.Name+".yaml", d, known) {
			t.Error(p)
		}
	}
}

// Every built-in client artifact runs on this machine without an error line. What
// it finds depends on the machine; what must be found on any Linux is named.
func TestBuiltInsRunHere(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the definitions are for Linux")
	}
	repo := builtIn(t)
	always := []string{"Generic.Client.Info", "Linux.Sys.Users", "Linux.Sys.Groups", "Linux.Sys.Pslist", "Linux.Mounts", "Generic.System.Pstree"}
	args := map[string]string{
		"Linux.Search.FileFinder":  "SearchFilesGlob='/etc/passwd', Calculate_Hash=TRUE, Search_Content_Regex='root'",
		"Linux.Sys.SUID":           "SUIDGlob='/usr/bin/*'",
		"Generic.Client.VQL":       "Command='SELECT 1 AS A FROM scope()'",
		"System.VFS.ListDirectory": "Path='/etc'",

		"Generic.Forensic.Timeline":         "SearchGlob='/etc/*'",
		"Generic.Search.Content":            "SearchGlob='/etc/passwd', ContentRegex='root'",
		"Generic.System.HostsFile":          "",
		"Linux.Detection.HiddenExecutables": "SearchGlobs=[dict(Glob='/usr/bin/*'),], Calculate_Hash=FALSE",
		"Linux.Network.Interfaces":          "",
		"Linux.Search.LargeFiles":           "SearchGlob='/usr/bin/*', MinSize=10000",
		"Linux.Search.RecentFiles":          "SearchGlobs=[dict(Glob='/etc/*'),], Days=36500",
		"Linux.Sys.Boot":                    "",
		"Linux.Sys.Environment":             "ProcGlob='/proc/self'",
		"Linux.Sys.Filesystems":             "",
		"Linux.Sys.Hardware":                "",
		"Linux.Sys.Maps":                    "ProcGlob='/proc/self'",
		"Linux.Sys.OpenFiles":               "PathRegex='.'",
		"Linux.Sys.Pslist":                  "Calculate_Hash=FALSE",
		"Linux.Sys.Sysctl":                  "",
		"Generic.Detection.Yara.Glob":       "PathGlob='/etc/passwd', YaraRule=':root'",
		"Linux.Detection.Yara.Process":      "PidRegex=format(format='^%v$', args=Parent), YaraRule='rule mapped { condition: true }'",
	}
	// Small pieces of what they would walk; they may find nothing.
	small := map[string]string{
		"Linux.Detection.WorldWritable": "SearchGlobs=[dict(Glob='/etc/**'),]",
		"Linux.Search.GitHooks":         "HookGlobs=[dict(Glob='/root/*/.git/hooks/*'),]",
		"Linux.Sys.FileCapabilities":    "Folders=('/usr/bin',)",
	}
	maps.Copy(args, small)
	changing := []string{"Generic.Utils.FetchBinary", "System.VFS.DownloadFile", "Linux.Utils.InstallDeb"}
	for _, d := range repo.List() {
		if d.Type != artifacts.Client || slices.Contains(changing, d.Name) || len(d.Sources) == 0 {
			continue
		}
		t.Run(d.Name, func(t *testing.T) {
			s := newSession(t, repo)
			rows := s.run("SELECT * FROM Artifact."+d.Name+"("+args[d.Name]+")", vql.NewDict().Set("Parent", os.Getppid()))
			for _, line := range s.errors() {
				t.Errorf("log: %.300s", line)
			}
			_, few := small[d.Name]
			if _, wanted := args[d.Name]; (wanted && !few || slices.Contains(always, d.Name)) && len(rows) == 0 {
				t.Error("no rows")
			}
			if len(rows) > 0 {
				t.Logf("%d rows, such as %.400s", len(rows), vql.AppendJSON(nil, rows[len(rows)-1]))
			}
		})
	}
}

func TestFindersFindWhatWasLaidOut(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the definitions are for Linux")
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := dir + "/" + name
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cases := []struct {
		name, query string
		rows        int
		column      string
		want        any
	}{
		{"users", "Artifact.Linux.Sys.Users(PasswordFile='" + write("passwd", "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000:Ada:/home/ada:/bin/zsh\n") + "')", 2, "User", "ada"},
		{"groups", "Artifact.Linux.Sys.Groups(GroupFile='" + write("group", "root:x:0:\nwheel:x:10:ada,bob\n") + "')", 2, "Group", "wheel"},
		{"packages", "Artifact.Linux.Debian.Packages(StatusFile='" + write("status", "Package: bash\nStatus: install ok installed\nInstalled-Size: 7164\nVersion: 5.2\n\nPackage: zsh\nVersion: 5.9\nStatus: install ok installed\n\n") + "')", 2, "Version", "5.9"},
		{"modules", "Artifact.Linux.Proc.Modules(ModulesFile='" + write("modules", "nf_nat 12 1 xt_nat, Live 0x0\next4 34 0 - Live 0x0\n") + "')", 2, "Name", "ext4"},
		{"arp", "Artifact.Linux.Proc.Arp(ArpFile='" + write("arp", "IP address       HW type     Flags       HW address            Mask     Device\n10.0.0.1         0x1         0x2         00:16:3e:00:00:01     *        eth0\n") + "')", 1, "HWAddress", "00:16:3e:00:00:01"},
		{"mounts", "Artifact.Linux.Mounts(MountsFile='" + write("mounts", "/dev/vda / ext4 rw,relatime 0 0\n") + "')", 1, "FSType", "ext4"},
		{"sshd", "Artifact.Linux.Syslog.SSHLogin(SyslogAuthLogPath='" + write("auth.log", "Nov 21 12:00:01 host sshd[77]: Accepted publickey for ada from 10.0.0.9 port 2222 ssh2\nNov 21 12:00:02 host cron[1]: nothing\n") + "')", 1, "AttemptedUser", "ada"},
		{"cron", "Artifact.Linux.Sys.Crontab(CronTabGlob='" + write("tab", "# m h\n*/5 * * * * /usr/bin/true -x\n@reboot /bin/evil\n") + "', ScriptGlob='/nowhere/*', source='CronTab')", 2, "Command", "/bin/evil"},
		{"finder", "Artifact.Linux.Search.FileFinder(SearchFilesGlob='" + dir + "/*', Search_Content_Regex='x:1000')", 1, "Keywords", "x:1000"},
		{"yara", "Artifact.Generic.Detection.Yara.Glob(PathGlob='" + dir + "/*', YaraRule='nocase:X:1000', ContextBytes=3, ExclusionRegex='group', NumberOfHits=9)", 1, "HitContext", "da:x:1000:10"},
		{"yara size", "Artifact.Generic.Detection.Yara.Glob(PathGlob='" + dir + "/*', YaraRule='rule a { condition: true }', SizeMin=2, SizeMax=4)", 0, "", nil},
		{"yara date", "Artifact.Generic.Detection.Yara.Glob(PathGlob='" + dir + "/*', YaraRule='rule a { condition: true }', DateBefore='2020-01-01')", 0, "", nil},
		{"yara age", "Artifact.Generic.Detection.Yara.Glob(PathGlob='" + dir + "/passwd', YaraRule='rule a { condition: true }', DateAfter='2020-01-01')", 1, "Rule", "a"},
		{"finder size", "Artifact.Linux.Search.FileFinder(SearchFilesGlob='" + dir + "/*', MaxSize=20)", 0, "", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newSession(t, builtIn(t))
			rows := s.run("SELECT * FROM "+c.query, nil)
			if len(rows) != c.rows {
				t.Fatalf("%d rows, want %d; log %v", len(rows), c.rows, s.logs)
			}
			if c.rows == 0 {
				return
			}
			if got, _ := rows[len(rows)-1].Get(c.column); got != c.want {
				t.Errorf("%s = %v, want %v in %s", c.column, got, c.want, vql.AppendJSON(nil, rows[len(rows)-1]))
			}
			if errs := s.errors(); len(errs) > 0 {
				t.Errorf("log: %v", errs)
			}
		})
	}
}

// endpointPrimitives is what queries on clients may call.
func endpointPrimitives(t *testing.T) artifacts.Primitives {
	t.Helper()
	known := artifacts.Primitives{Functions: map[string]artifacts.Primitive{}, Plugins: map[string]artifacts.Primitive{}}
	for _, entry := range engine(t).Reference() {
		one := artifacts.Primitive{AnyArgs: entry.FreeForm, Permission: entry.Permission}
		for _, arg := range entry.Args {
			one.Args = append(one.Args, arg.Name)
			if arg.Required {
				one.Required = append(one.Required, arg.Name)
			}
		}
		kind := known.Functions
		if entry.Kind == "plugin" {
			kind = known.Plugins
		}
		kind[entry.Name] = one
	}
	return known
}
