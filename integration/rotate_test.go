package integration_test

import (
	"crypto/x509"
	"fmt"
	"testing"

	"raptorpack/config"
	"raptorpack/integration"
)

// written is the server's certificate as its file has it now.
func written(t *testing.T, p *integration.Pack) *x509.Certificate {
	t.Helper()
	file, err := config.Load(p.ConfigFile(), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := config.Certificate(file.Frontend.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func TestAgentsFollowRotatedKeysInTheMiddleOfWork(t *testing.T) {
	s := begin(t, integration.Launch(t, options(t)))
	old := written(t, s.pack)
	s.kills = 2
	s.each(func(n int) {
		s.pack.Command("config", "rotate-keys", "--in-place")
		fresh := written(t, s.pack)
		if fresh.Equal(old) {
			t.Fatal("the file has the old certificate")
		}
		if n == 0 { // the door follows while the node runs, the messages with a restart
			s.pack.Reload()
			s.pack.WaitFor("the new certificate at the door", func() (bool, string) {
				shown, err := s.pack.Certificate()
				return err == nil && shown.Equal(fresh), fmt.Sprint(err)
			})
		}
		s.pack.StopServer()
		s.pack.StartServer()
		old = fresh
	})
	s.end()
	s.pack.Command("config", "upgrade", "--in-place")
	s.pack.StopServer()
	s.pack.StartServer()
	s.again()
}
