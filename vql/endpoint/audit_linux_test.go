package endpoint

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/elastic/go-libaudit/v2"
	"github.com/elastic/go-libaudit/v2/auparse"
	"raptorpack/vql"
)

// What the kernel sends when grep is run under a rule for execve.
var auditMessages = []struct {
	kind uint16
	text string
}{
	{1300, `audit(1492037291.036:59): arch=c000003e syscall=59 success=yes exit=0 a0=1522170 a1=1506120 a2=14faeb0 a3=7ffcc4582df0 items=2 ppid=12041 pid=13393 auid=1000 uid=1000 gid=1001 euid=1000 suid=1000 fsuid=1000 egid=1001 sgid=1001 fsgid=1001 tty=pts1 ses=802 comm="grep" exe="/usr/bin/grep" key="user_commands"`},
	{1309, `audit(1492037291.036:59): argc=3 a0="grep" a1="--color=auto" a2="mapping"`},
	{1307, `audit(1492037291.036:59):  cwd="/home/jo"`},
	{1302, `audit(1492037291.036:59): item=0 name="/bin/grep" inode=7037 dev=08:01 mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL`},
	{1320, `audit(1492037291.036:59): `},
}

func TestAuditEventsAreWhole(t *testing.T) {
	engine, err := vql.NewEngine(Functions(), Plugins())
	if err != nil {
		t.Fatal(err)
	}
	scope := engine.NewScope(vql.SessionOptions{Log: func(_, message string) { t.Log(message) }})
	defer scope.Close()
	stream := &auditStream{scope: scope}
	whole, err := libaudit.NewReassembler(auditInFlight, auditPatience, stream)
	if err != nil {
		t.Fatal(err)
	}
	var datagrams [][]byte
	for _, m := range auditMessages {
		head := make([]byte, 16)
		binary.NativeEndian.PutUint32(head, uint32(len(m.text)))
		binary.NativeEndian.PutUint16(head[4:], m.kind)
		datagrams = append(datagrams, append(head, m.text...))
	}
	for _, d := range datagrams {
		eachNetlink(d, func(kind uint16, data []byte) {
			if err := whole.Push(auparse.AuditMessageType(kind), data); err != nil {
				t.Error(err)
			}
		})
	}
	if err := whole.Close(); err != nil {
		t.Error(err)
	}
	if len(stream.rows) != 1 {
		t.Fatalf("%d rows", len(stream.rows))
	}
	text := string(vql.AppendJSON(nil, stream.rows[0]))
	for _, part := range []string{
		`{"timestamp":"2017-04-12T22:48:11.036Z","sequence":59,"category":"audit-rule","record_type":"syscall","result":"success","session":"802"`,
		`"args":["grep","--color=auto","mapping"]`, `"cwd":"/home/jo"`, `"name":"/bin/grep"`,
	} {
		if !strings.Contains(text, part) {
			t.Errorf("%s is missing in\n%s", part, text)
		}
	}
	if got := scope.String(t.Context(), member(t, scope, stream.rows[0], "PROCESS", "Exe")); got != "/usr/bin/grep" {
		t.Errorf("keys are case-sensitive: exe is %q", got)
	}
	if got := member(t, scope, stream.rows[0], "Summary", "actor", "Primary"); got == nil {
		t.Error("keys of deeper dicts are case-sensitive")
	}
}

// member goes down into a value by names.
func member(t *testing.T, scope *vql.Scope, v vql.Value, names ...string) vql.Value {
	t.Helper()
	for _, name := range names {
		inner, ok := scope.Member(v, name)
		if !ok {
			t.Errorf("no %s in %s", name, vql.AppendJSON(nil, v))
		}
		v = inner
	}
	return v
}

func FuzzNetlink(f *testing.F) {
	f.Add([]byte("\x20\x00\x00\x00\x14\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00audit(1.0:2): x=1"))
	f.Add(make([]byte, 40))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := 0
		eachNetlink(data, func(_ uint16, body []byte) { n += len(body) + 16 })
		if n > len(data) {
			t.Errorf("%d bytes of %d", n, len(data))
		}
	})
}
