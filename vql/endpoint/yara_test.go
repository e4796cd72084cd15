package endpoint_test

import "testing"

func TestYaraFirst(t *testing.T) {
	root := tree(t, map[string]string{"a": "hello world, hello moon", "b": "nothing"})
	s := newSession(t, map[string]any{"Root": root})
	for _, q := range []string{
		`SELECT * FROM yara(rules='nocase:HELLO', files=Root + '/a', number=10, context=3)`,
		`SELECT Rule, String.Offset FROM yara(rules=':hello', files=Root + '/a')`,
		`SELECT Rule, String.Offset FROM yara(rules=':Linux', files='/proc/version')`,
		`SELECT Rule, String.Offset FROM yara(rules=':Linux', files='some Linux', accessor='data')`,
	} {
		t.Log(s.rows(q))
	}
	t.Log(s.log())
}
func TestYaraProc(t *testing.T) {
	s := newSession(t, nil)
	for _, q := range []string{
		`SELECT Rule, String.Offset, FileName FROM proc_yara(rules=':raptorpack', pid=getpid(), number=2)`,
	} {
		t.Log(s.rows(q))
	}
	t.Log(s.log())
}
