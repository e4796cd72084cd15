package endpoint_test

import (
	"errors"
	"testing"
	"time"
)

type rekeyer struct {
	waits []time.Duration
	err   error
}

func (r *rekeyer) Rekey(wait time.Duration) error {
	r.waits = append(r.waits, wait)
	return r.err
}

func TestRekeyAsksTheAgent(t *testing.T) {
	agent := &rekeyer{}
	s := newSession(t, nil, agent)
	s.want(`SELECT rekey() AS A, rekey(wait=0) AS B, rekey(wait=90) AS C, rekey(wait=-1) AS D, rekey(wait=100000) AS E FROM scope()`,
		`{"A":null,"B":null,"C":null,"D":null,"E":null}`)
	if len(agent.waits) != 3 || agent.waits[0] != 10*time.Second || agent.waits[1] != 0 || agent.waits[2] != 90*time.Second {
		t.Errorf("asked for %v", agent.waits)
	}
	s.wantLog("wait -1")
	agent.err = errors.New("not now")
	s.want(`SELECT rekey() AS A FROM scope()`, `{"A":null}`)
	s.wantLog("not now")
	nobody := newSession(t, nil)
	nobody.want(`SELECT rekey() AS A FROM scope()`, `{"A":null}`)
	nobody.wantLog("no agent's")
}
