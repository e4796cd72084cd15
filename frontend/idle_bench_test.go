package frontend_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/gob"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"raptorpack/frontend"
	"raptorpack/ids"
	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

// The clients of the memory benchmark live in a process of their own, so that
// only the server's side is measured.
const idleEnv = "RAPTORPACK_IDLE_AGENTS"

// idlePlan is what that process is told. Keys are products of pairs of primes:
// good for nothing but to be many.
type idlePlan struct {
	Base   string
	CA     []byte
	Server []byte
	Primes []*big.Int
	Agents int
}

func init() {
	if os.Getenv(idleEnv) != "" {
		if err := idleAgents(os.Stdin); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// key makes the n-th key out of pairs of primes.
func (p *idlePlan) key(n int) (*rsa.PrivateKey, error) {
	second := 1
	for n >= second {
		n -= second
		second++
	}
	a, b := p.Primes[n], p.Primes[second]
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(a, one), new(big.Int).Sub(b, one))
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Mul(a, b), E: 65537}, Primes: []*big.Int{a, b}}
	if key.D = new(big.Int).ModInverse(big.NewInt(65537), phi); key.D == nil {
		return nil, fmt.Errorf("no inverse")
	}
	key.Precompute()
	return key, nil
}

func idleAgents(input io.Reader) error {
	var plan idlePlan
	if err := gob.NewDecoder(input).Decode(&plan); err != nil {
		return err
	}
	transport, err := wire.NewTransport(wire.TransportOptions{TLS: wire.TLSOptions{CA: plan.CA, SelfSigned: true}})
	if err != nil {
		return err
	}
	server, err := wire.CheckServer(plan.Server, wire.Trust{CA: plan.CA})
	if err != nil {
		return err
	}
	for n := range plan.Agents {
		if err := plan.idle(transport, server, n); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, input)
	return err
}

func (p *idlePlan) idle(transport *wire.Transport, server *wire.ServerIdentity, n int) error {
	key, err := p.key(n)
	if err != nil {
		return err
	}
	session, err := wire.NewSession(wire.SessionOptions{Key: key, Server: server, Nonce: wiretest.Nonce})
	if err != nil {
		return err
	}
	packet, err := session.SealMessages(checkIn(0))
	if err != nil {
		return err
	}
	control, err := transport.Endpoint(p.Base, wire.PathControl)
	if err != nil {
		return err
	}
	if answer, err := control.Exchange(context.Background(), wire.Request{Packet: packet}); err != nil || answer.Code != 200 {
		return fmt.Errorf("control: %d, %w", answer.Code, err)
	}
	reader, err := transport.Endpoint(p.Base, wire.PathReader)
	if err != nil {
		return err
	}
	if packet, err = session.SealMessages(checkIn(0)); err != nil { // what came before takes no place
		return err
	}
	go reader.Exchange(context.Background(), wire.Request{Packet: packet}) // until the process ends
	return nil
}

// BenchmarkIdleClient holds the memory of an idle client with both its sockets
// open, authenticated and registered: the aim is 20 KiB plain, 45 KiB with TLS.
func BenchmarkIdleClient(b *testing.B) {
	for scheme, most := range map[string]float64{"ws": 20 << 10, "wss": 45 << 10} {
		b.Run(scheme, func(b *testing.B) {
			for b.Loop() {
				heap, resident := idleClients(b, scheme, 1000)
				b.ReportMetric(heap, "heap-B/client")
				b.ReportMetric(resident, "rss-B/client")
				if resident > most {
					b.Errorf("%.0f bytes resident per client, at most %.0f are allowed", resident, most)
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func idleClients(b *testing.B, scheme string, agents int) (heap, resident float64) {
	b.Helper()
	n := launch(b, scheme == "wss", func(o *frontend.Options) {
		o.PingWait = 10 * time.Minute
		o.Identity = wiretest.NewDeployment(b).Identity(b, wire.IdentityOptions{OperationsPerSecond: 1e6, MaxWait: time.Minute})
	})
	plan := idlePlan{Base: scheme + "://" + n.address + "/", CA: n.CA, Server: n.Server, Agents: agents}
	for len(plan.Primes)*(len(plan.Primes)-1)/2 < agents {
		prime, err := rand.Prime(rand.Reader, 1024)
		if err != nil {
			b.Fatal(err)
		}
		plan.Primes = append(plan.Primes, prime)
	}
	for i := range agents {
		key, err := plan.key(i)
		if err != nil {
			b.Fatal(err)
		}
		n.keys.SetFor(ids.ClientOfKey(&key.PublicKey), &key.PublicKey)
	}
	heapBefore, residentBefore := wiretest.Memory(b)
	input, output, wait := agentsProcess(b, plan)
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil || line != "ready\n" {
		b.Fatalf("agents: %q, %v", line, err)
	}
	n.waiting(b, agents)
	for range 3 { // stacks shrink by half with each collection
		runtime.GC()
	}
	heapAfter, residentAfter := wiretest.Memory(b)
	input.Close()
	wait()
	n.stop()
	return (heapAfter - heapBefore) / float64(agents), (residentAfter - residentBefore) / float64(agents)
}

func agentsProcess(b *testing.B, plan idlePlan) (io.WriteCloser, io.Reader, func() error) {
	b.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), idleEnv+"=1")
	input, err := child.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	output, err := child.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	if err := gob.NewEncoder(input).Encode(plan); err != nil {
		b.Fatal(err)
	}
	return input, output, child.Wait
}

// BenchmarkControl is one small post of results over HTTP, to the commit of a
// store that takes no time.
func BenchmarkControl(b *testing.B) {
	n := launch(b, false, nil)
	a := n.known(b, "http", 0)
	message := rows("F.1", `{"Pid":1}`+"\n")
	b.ReportAllocs()
	for b.Loop() {
		if code := a.post(message); code != 200 {
			b.Fatal(code)
		}
	}
}
