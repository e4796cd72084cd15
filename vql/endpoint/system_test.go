package endpoint_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"raptorpack/vql"
)

func onLinux(t testing.TB) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
}

func TestPslistShowsThisProcess(t *testing.T) {
	onLinux(t)
	s := newSession(t, nil)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	s.want(`SELECT Pid = getpid() AS Me, Ppid, Exe, Cwd, MemoryInfo.rss > 1000000 AS RSS, Times.user >= 0 AS User, CommandLine =~ 'test' AS Cmd
	   FROM pslist() WHERE Pid = getpid()`,
		fmt.Sprintf(`{"Me":true,"Ppid":%d,"Exe":%q,"Cwd":%q,"RSS":true,"User":true,"Cmd":true}`, os.Getppid(), exe, cwd))
	s.want(`SELECT Pid, Hidden FROM pslist(pid=getpid())`, fmt.Sprintf(`{"Pid":%d,"Hidden":null}`, os.Getpid()))
	s.want(`SELECT * FROM pslist(pid=999999999)`)
	err = s.each(t.Context(), `SELECT CreateTime FROM pslist(pid=getpid())`, func(row *vql.Dict) error {
		v, _ := row.Get("CreateTime")
		if age := time.Since(v.(time.Time)); age < -time.Minute || age > time.Hour {
			t.Errorf("this process is %v old", age)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestProcessTrackerStandsOnTheLiving(t *testing.T) {
	onLinux(t)
	s := newSession(t, nil)
	me, parent := strconv.Itoa(os.Getpid()), strconv.Itoa(os.Getppid())
	s.want(`LET Me <= str(str=getpid())
	   SELECT process_tracker_get(id=Me).ParentId AS P, process_tracker_callchain(id=Me)[1].Id AS C, process_tracker_get(id='999999999') AS N FROM scope()`,
		fmt.Sprintf(`{"P":%q,"C":%q,"N":null}`, parent, parent))
	s.want(`SELECT Pid FROM process_tracker_pslist() WHERE Pid = '`+me+`'`, fmt.Sprintf(`{"Pid":%q}`, me))
	s.want(`SELECT process_tracker_tree(id='`+me+`').id AS I, process_tracker_tree().name AS N,
	   len(list=filter(list=process_tracker_children(id='`+parent+`'), condition="x=>x.Id = '`+me+`'")) AS C FROM scope()`,
		fmt.Sprintf(`{"I":%q,"N":"System","C":1}`, me))
}

func TestInfoTellsThisHost(t *testing.T) {
	s := newSession(t, nil)
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	s.want(`SELECT OS, Architecture, Hostname, info().OS AS F FROM info()`,
		fmt.Sprintf(`{"OS":%q,"Architecture":%q,"Hostname":%q,"F":%q}`, runtime.GOOS, runtime.GOARCH, hostname, runtime.GOOS))
	got := strings.Join(s.rows(`SELECT * FROM info()`), "")
	for _, key := range []string{"Uptime", "BootTime", "Platform", "KernelVersion", "HostID", "Exe", "IsAdmin", "ClientStart", "LocalTZ", "Fqdn"} {
		if !strings.Contains(got, `"`+key+`":`) {
			t.Errorf("no %s in %s", key, got)
		}
	}
}

func TestInterfacesAndMounts(t *testing.T) {
	onLinux(t)
	s := newSession(t, nil)
	s.want(`SELECT Name, Loopback, AddrsString =~ '127.0.0.1' AS A FROM interfaces() WHERE Name = 'lo'`, `{"Name":"lo","Loopback":"Y","A":true}`)
	s.want(`SELECT mountpoint FROM filesystems() WHERE mountpoint = '/proc' LIMIT 1`, `{"mountpoint":"/proc"}`)
	s.want(`SELECT sysinfo().TotalPhysicalMemory > 1000000 AS M FROM scope()`, `{"M":true}`)
}

func TestNetstatFindsOurSockets(t *testing.T) {
	onLinux(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := newSession(t, map[string]any{"Port": int64(l.Addr().(*net.TCPAddr).Port)})
	s.want(`SELECT FamilyString, TypeString, Laddr.IP AS IP, Status, Pid = getpid() AS Me FROM netstat() WHERE Laddr.Port = Port AND Status = 'LISTEN'`,
		`{"FamilyString":"IPv4","TypeString":"TCP","IP":"127.0.0.1","Status":"LISTEN","Me":true}`)
	s.want(`SELECT Status, Raddr.Port = Port AS R FROM netstat() WHERE Raddr.Port = Port`, `{"Status":"ESTAB","R":true}`)
	s.want(`SELECT Laddr.ip AS IP FROM connections() WHERE Laddr.port = Port AND Status = 'LISTEN'`, `{"IP":"127.0.0.1"}`)
	s.want(`SELECT fd > 0 AS F, laddr.IP AS IP, LADDR.Port = Port AS P FROM connections() WHERE Laddr.port = Port AND status = 'LISTEN'`,
		`{"F":true,"IP":"127.0.0.1","P":true}`)
}

func TestProcessMemoryAccessor(t *testing.T) {
	onLinux(t)
	s := newSession(t, nil)
	self := "/" + strconv.Itoa(os.Getpid())
	data, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	start, _, _ := strings.Cut(string(data), "-")
	s.want(`SELECT read_file(accessor='process', filename='`+self+`', offset=0x`+start+`, length=4) = '\x7fELF' AS M,
	   read_file(accessor='process', filename='`+self+`', offset=0, length=4) AS Z, read_file(accessor='process', filename='/nosuch') AS N FROM scope()`,
		`{"M":true,"Z":"\u0000\u0000\u0000\u0000","N":""}`)
	if got := s.rows(`SELECT Name FROM glob(globs='/*', accessor='process') WHERE Name = '` + self[1:] + `'`); len(got) != 1 {
		t.Errorf("got %v", got)
	}
}

func TestExecve(t *testing.T) {
	onLinux(t)
	s := newSession(t, nil)
	s.want(`SELECT Stdout, Stderr, ReturnCode, Complete FROM execve(argv=['sh', '-c', 'echo out; echo err >&2; exit 3'])`,
		`{"Stdout":"out\n","Stderr":"err\n","ReturnCode":3,"Complete":true}`)
	s.want(`SELECT Stdout, ReturnCode FROM execve(argv=['printf', 'a\nb\nc'], sep='\n')`,
		`{"Stdout":"a","ReturnCode":null}`, `{"Stdout":"b","ReturnCode":null}`, `{"Stdout":"c","ReturnCode":0}`)
	s.want(`SELECT len(list=Stdout) AS L, Complete FROM execve(argv=['head', '-c', '25', '/dev/zero'], length=10)`,
		`{"L":10,"Complete":false}`, `{"L":10,"Complete":false}`, `{"L":5,"Complete":true}`)
	s.want(`SELECT Stdout FROM execve(argv=['/usr/bin/env'], env=dict(ONLY='this'))`, `{"Stdout":"ONLY=this\n"}`)
	s.want(`SELECT Stdout FROM execve(argv=['pwd'], cwd='/proc')`, `{"Stdout":"/proc\n"}`)
	for _, argv := range []string{`'NULL'`, `(NULL,)`, `''`, `'/nonexistent/program'`} {
		s.want(`SELECT * FROM execve(argv=[` + argv + `])`)
	}
	s.wantLog(`execve: running ["sh" "-c"`)
	s.wantLog("argv names no program")
	s.wantLog("no such file")
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("gave up waiting for %s", what)
		}
	}
}

type noPrograms struct{}

func (noPrograms) AllowExec([]string) error {
	return errors.New("programs are forbidden by the configuration")
}

func TestExecveObeysTheHost(t *testing.T) {
	s := newSession(t, nil, noPrograms{})
	s.want(`SELECT * FROM execve(argv=['true'])`)
	s.wantLog("forbidden by the configuration")
}

func TestPskill(t *testing.T) {
	onLinux(t)
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, map[string]any{"P": int64(cmd.Process.Pid)})
	s.want(`SELECT pskill(pid=P) AS A, pskill(pid=-1) AS B FROM scope()`, `{"A":null,"B":"invalid process id"}`)
	if err := cmd.Wait(); err == nil {
		t.Error("the program ended by itself")
	}
}

func TestExpandAndEnviron(t *testing.T) {
	t.Setenv("RAPTOR_TEST", "value")
	s := newSession(t, nil)
	s.want(`SELECT expand(path='$RAPTOR_TEST/${RAPTOR_TEST}/%RAPTOR_TEST%/%NO_SUCH_VARIABLE%') AS E, environ(var='RAPTOR_TEST') AS V, environ(var='NO_SUCH_VARIABLE') AS N FROM scope()`,
		`{"E":"value/value/value/%NO_SUCH_VARIABLE%","V":"value","N":null}`)
	s.want(`SELECT * FROM environ(vars='RAPTOR_TEST')`, `{"RAPTOR_TEST":"value"}`)
}

func TestGeoIPWithoutDatabase(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT geoip(ip='1.2.3.4', db='/nonexistent.mmdb') AS A, geoip(ip='no address', db='/x') AS B FROM scope()`, `{"A":null,"B":null}`)
	s.wantLog("geoip: ")
}

// smtpServer takes one mail and gives what it was told.
func smtpServer(t *testing.T) (port int, mail func() string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1) // one mail; never full
	go func() {                 // ends with the connection or the listener, both closed by the test
		defer close(got)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		say := func(text string) { _, _ = c.Write([]byte(text + "\r\n")) }
		say("220 test")
		var all strings.Builder
		lines := bufio.NewScanner(c)
		inData := false
		for lines.Scan() {
			line := lines.Text()
			all.WriteString(line + "\n")
			switch {
			case inData && line == ".":
				inData = false
				say("250 taken")
			case inData:
			case strings.HasPrefix(line, "DATA"):
				inData = true
				say("354 go on")
			case strings.HasPrefix(line, "QUIT"):
				say("221 bye")
				got <- all.String()
				return
			default:
				say("250 ok")
			}
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().(*net.TCPAddr).Port, func() string { _ = l.Close(); return <-got }
}

func TestMailIsSentOncePerPeriod(t *testing.T) {
	port, mail := smtpServer(t)
	s := newSession(t, map[string]any{"Port": int64(port)})
	s.want(`SELECT mail(server='127.0.0.1', server_port=Port, `+"`from`"+`='a@example.com', to='b@example.com', subject='Test', body='<p>Hello there', headers=dict(`+"`Content-Type`='text/html', `X-Case`='7'"+`)).ErrorStatus AS E FROM scope()`,
		`{"E":""}`)
	if got := mail(); !strings.Contains(got, "<p>Hello there") || !strings.Contains(got, "RCPT TO:<b@example.com>") ||
		strings.Count(got, "Content-Type:") != 1 || !strings.Contains(got, "text/html") || !strings.Contains(got, "X-Case: 7") {
		t.Errorf("the server got %s", got)
	}
	s.want(`SELECT ErrorStatus FROM mail(server='127.0.0.1', server_port=Port, `+"`from`"+`='a@example.com', to='b@example.com', body='Again')`,
		`{"ErrorStatus":"another mail was sent within the period"}`)
	s.want(`SELECT mail(to='b@example.com', body='x').ErrorStatus =~ 'server and from' AS E FROM scope()`, `{"E":true}`)
}

// A body is sent encoded: a type that we could not keep is refused before anybody
// is called.
func TestMailRefusesTypesItCannotKeep(t *testing.T) {
	s := newSession(t, nil)
	for _, kind := range []string{"multipart/mixed; boundary=x", "image/png", "no type", ""} {
		got := s.rows(`SELECT mail(server='127.0.0.1', server_port=1, ` + "`from`" + `='a@example.com', to='b@example.com', body='x', headers=dict(` + "`content-type`" + `='` + kind + `')).ErrorStatus =~ '^content type' AS E FROM scope()`)
		if len(got) != 1 || !strings.Contains(got[0], "true") {
			t.Errorf("%q: %v", kind, got)
		}
	}
}

func TestVersionsTellWhatIsThere(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT version(plugin='yara') AS Y, version(plugin='yarax') AS X, version(function='hash') AS H FROM scope()`, `{"Y":1,"X":null,"H":1}`)
}

func BenchmarkPslist(b *testing.B) {
	onLinux(b)
	s := newSession(b, nil)
	for b.Loop() {
		if err := s.each(b.Context(), `SELECT * FROM pslist()`, func(*vql.Dict) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func TestGeoIPTakesAnyFile(t *testing.T) {
	root := tree(t, map[string]string{"db": strings.Repeat("x", 200_000), "empty": ""})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT geoip(ip='1.2.3.4', db=Root + '/db') AS A, geoip(ip='1.2.3.4', db=Root + '/empty') AS B FROM scope()`, `{"A":null,"B":null}`)
}
