package config_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"raptorpack/config"
	"raptorpack/internal/subject"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// generated is made once: key pairs are dear under the race detector.
var generated []byte

func TestMain(m *testing.M) {
	var err error
	generated, err = config.Generate(config.GenerateOptions{Datastore: "/srv/pack", Hostname: "pack.example", Now: now})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func parse(t *testing.T, text string, o config.Options) *config.Loaded {
	t.Helper()
	loaded, err := config.Parse("server.yaml", []byte(text), o)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return loaded
}

func TestGeneratedFileLoadsWithoutAWord(t *testing.T) {
	loaded := parse(t, string(generated), config.Options{})
	if len(loaded.Warnings) != 0 {
		t.Errorf("warnings: %v", loaded.Warnings)
	}
	if loaded.Client.ServerURLs[0] != "https://pack.example:8000/" {
		t.Errorf("server url %q", loaded.Client.ServerURLs[0])
	}
	if loaded.Datastore.FilestoreDirectory != "/srv/pack" {
		t.Errorf("filestore %q", loaded.Datastore.FilestoreDirectory)
	}
	ports := []int{loaded.Frontend.BindPort, loaded.API.BindPort, loaded.Bus.BindPort, loaded.Monitoring.BindPort, loaded.Gossip.BindPort, loaded.GUI.BindPort}
	if fmt.Sprint(ports) != "[8000 8001 8002 8003 7946 8889]" {
		t.Errorf("ports %v", ports)
	}
}

func TestCertificatesAreForOnePurposeEach(t *testing.T) {
	loaded := parse(t, string(generated), config.Options{})
	ca, err := config.Certificate(loaded.Client.CACertificate)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	api, err := loaded.NewAPIClient("robot", now)
	if err != nil {
		t.Fatal(err)
	}
	local, err := loaded.LocalCaller("root", now)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, pem           string
		server, node, local bool
	}{
		{"server", loaded.Frontend.Certificate, true, false, false},
		{"node", loaded.Bus.Certificate, true, true, false},
		{"caller", api.ClientCert, false, false, false},
		{"local", local.Certificate, false, false, true},
	}
	for _, c := range cases {
		certificate, err := config.Certificate(c.pem)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		_, err = certificate.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		if (err == nil) != c.server {
			t.Errorf("%s as a server: %v", c.name, err)
		}
		if node, local := has(certificate, "raptorpack:node"), has(certificate, "raptorpack:local"); node != c.node || local != c.local {
			t.Errorf("%s: node %v, local %v", c.name, node, local)
		}
	}
	if name := subject.Name(mustCertificate(t, loaded.Frontend.Certificate)); name != "VelociraptorServer" {
		t.Errorf("server is named %q", name)
	}
}

func mustCertificate(t *testing.T, pem string) *x509.Certificate {
	t.Helper()
	c, err := config.Certificate(pem)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestProblemsNameFileLineAndKey(t *testing.T) {
	text := strings.Replace(string(generated), "bind_port: 8000", "bind_port: eighty", 1)
	text = strings.Replace(text, "use_self_signed_ssl: true", "use_self_signed_ssl: perhaps", 1)
	text = strings.Replace(text, "- https://pack.example:8000/", "- https://pack.example:8000", 1)
	text = strings.Replace(text, "Monitoring:", "Monitorin:", 1)
	_, err := config.Parse("server.yaml", []byte(text), config.Options{})
	if !errors.Is(err, config.ErrInvalid) {
		t.Fatalf("error %v, want ErrInvalid", err)
	}
	for _, want := range []string{
		`Frontend.bind_port: expected a whole number, found "eighty"`,
		`Client.use_self_signed_ssl: expected true or false, found "perhaps"`,
		`must end in /`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no line says %q in:\n%v", want, err)
		}
	}
	for line := range strings.Lines(err.Error()) {
		if !strings.HasPrefix(line, "server.yaml:") || strings.HasPrefix(line, "server.yaml:0") {
			t.Errorf("line without a place: %q", line)
		}
	}
}

func TestUnknownKeyIsAWarningWithASuggestion(t *testing.T) {
	text := string(generated) + "Frontned:\n  x: 1\n"
	loaded := parse(t, text, config.Options{})
	if len(loaded.Warnings) != 1 {
		t.Fatalf("warnings: %v", loaded.Warnings)
	}
	got := loaded.Warnings[0].String()
	if want := fmt.Sprintf("server.yaml:%d: warning: Frontned: unknown key; did you mean Frontend?", strings.Count(string(generated), "\n")+1); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestKeysMustFitTogether(t *testing.T) {
	other, err := config.NewCA(now)
	if err != nil {
		t.Fatal(err)
	}
	loaded := parse(t, string(generated), config.Options{})
	_, err = config.Parse("server.yaml", generated, config.Options{MergeJSON: jsonText(map[string]any{"Client": map[string]any{"ca_certificate": other.Certificate}})})
	if err == nil || !strings.Contains(err.Error(), "is not signed by Client.ca_certificate") {
		t.Errorf("foreign CA: %v", err)
	}
	_, err = config.Parse("server.yaml", generated, config.Options{MergeJSON: jsonText(map[string]any{"Frontend": map[string]any{"private_key": loaded.CA.PrivateKey}})})
	if err == nil || !strings.Contains(err.Error(), "does not belong to Frontend.certificate") {
		t.Errorf("foreign key: %v", err)
	}
	if strings.Contains(fmt.Sprint(err), "PRIVATE") {
		t.Errorf("the error shows key material: %v", err)
	}
}

// stockFile is shaped as the stock generator writes it: other sections, no bus.
func stockFile(t *testing.T) string {
	t.Helper()
	loaded := parse(t, string(generated), config.Options{})
	indent := func(pem string) string {
		return strings.ReplaceAll(strings.TrimSpace(pem), "\n", "\n    ")
	}
	return fmt.Sprintf(`version:
  name: velociraptor
  version: 0.77.2
  commit: abcdef0
  build_time: "2026-01-02T03:04:05Z"
Client:
  server_urls:
  - https://old.example:8000/
  ca_certificate: |
    %s
  nonce: cHJvdG8xbm9uY2U=
  writeback_darwin: /etc/velociraptor.writeback.yaml
  writeback_linux: /etc/velociraptor.writeback.yaml
  writeback_windows: $ProgramFiles\Velociraptor\velociraptor.writeback.yaml
  level2_writeback_suffix: .bak
  tempdir_windows: $ProgramFiles\Velociraptor\Tools
  max_poll: 60
  nanny_max_connection_delay: 600
  windows_installer:
    service_name: Velociraptor
    install_path: $ProgramFiles\Velociraptor\Velociraptor.exe
  darwin_installer:
    service_name: com.velocidex.velociraptor
  version:
    name: velociraptor
  use_self_signed_ssl: true
  pinned_server_name: VelociraptorServer
  max_upload_size: 5242880
  local_buffer:
    memory_size: 52428800
    disk_size: 1073741824
    filename_linux: /var/tmp/Velociraptor_Buffer.bin
API:
  hostname: localhost
  bind_address: 127.0.0.1
  bind_port: 8001
  bind_scheme: tcp
  pinned_gw_name: GRPC_GW
GUI:
  bind_address: 127.0.0.1
  bind_port: 8889
  gw_certificate: unused
  gw_private_key: unused
  authenticator:
    type: Basic
  initial_users:
  - name: admin
    password_hash: "00"
CA:
  private_key: |
    %s
Frontend:
  hostname: old.example
  bind_address: 0.0.0.0
  bind_port: 8000
  certificate: |
    %s
  private_key: |
    %s
  dyn_dns: {}
  default_client_monitoring_artifacts:
  - Generic.Client.Stats
  GRPC_pool_max_size: 100
  GRPC_pool_max_wait: 60
  resources:
    connections_per_second: 100
    notifications_per_second: 30
    max_upload_size: 10485760
    expected_clients: 30000
ExtraFrontends:
- hostname: two.example
  bind_port: 8100
  bind_address: 127.0.0.1
Datastore:
  implementation: FileBaseDataStore
  location: /var/tmp/velociraptor/
  filestore_directory: /var/tmp/velociraptor/
Logging:
  separate_logs_per_component: true
  debug:
    disabled: true
Monitoring:
  bind_address: 127.0.0.1
  bind_port: 8003
api_config: {}
obfuscation_nonce: bm9uY2Vub24=
defaults:
  hunt_expiry_hours: 168
  notebook_cell_timeout_min: 10
security:
  certificate_validity_days: 365
`, indent(loaded.Client.CACertificate), indent(loaded.CA.PrivateKey), indent(loaded.Frontend.Certificate), indent(loaded.Frontend.PrivateKey))
}

func TestStockFileStartsUnmodified(t *testing.T) {
	loaded := parse(t, stockFile(t), config.Options{})
	if len(loaded.Warnings) != 0 {
		t.Errorf("warnings: %v", loaded.Warnings)
	}
	if loaded.Client.Nonce != "cHJvdG8xbm9uY2U=" || loaded.Bus.Certificate != "" || loaded.Gossip.Key != "" {
		t.Errorf("nonce %q, bus %q", loaded.Client.Nonce, loaded.Bus.Certificate)
	}
	if len(loaded.Inert) == 0 {
		t.Error("no key is listed as without effect")
	}
	extra := parse(t, stockFile(t), config.Options{Node: "two.example-8100"})
	if extra.Frontend.BindPort != 8100 || extra.Frontend.BindAddress != "127.0.0.1" || extra.Frontend.Certificate == "" {
		t.Errorf("extra frontend listens on %s:%d", extra.Frontend.BindAddress, extra.Frontend.BindPort)
	}
}

func TestUpgradeAddsPackKeysAndLeavesTheRest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.yaml")
	text := "# kept by hand\n" + stockFile(t)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	upgraded, err := config.Upgrade(path, now)
	if err != nil {
		t.Fatal(err)
	}
	loaded := parse(t, string(upgraded), config.Options{})
	if loaded.Bus.Certificate == "" || loaded.Gossip.Key == "" || !strings.Contains(string(upgraded), "# kept by hand") {
		t.Errorf("upgrade lost or lacks something:\n%.300s", upgraded)
	}
	before := parse(t, text, config.Options{})
	if loaded.Frontend.PrivateKey != before.Frontend.PrivateKey || loaded.Client.Nonce != before.Client.Nonce {
		t.Error("upgrade changed the keys that deployed agents trust")
	}
	if !has(mustCertificate(t, loaded.Bus.Certificate), "raptorpack:node") {
		t.Error("the bus certificate is no node's")
	}
}

// has reports whether a certificate names what its holder is by this URI.
func has(c *x509.Certificate, uri string) bool {
	return slices.ContainsFunc(c.URIs, func(u *url.URL) bool { return u.String() == uri })
}

// referring is a complete file whose server key lies in a file of its own; it
// returns both names.
func referring(t *testing.T) (server, key string) {
	t.Helper()
	server, key = filepath.Join(t.TempDir(), "server.yaml"), filepath.Join(t.TempDir(), "server.key")
	loaded := parse(t, stockFile(t), config.Options{})
	var tree map[string]any
	if err := yaml.Unmarshal([]byte(stockFile(t)), &tree); err != nil {
		t.Fatal(err)
	}
	tree["Frontend"].(map[string]any)["private_key"] = "file:" + key
	text, err := yaml.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(server, text, 0o600), os.WriteFile(key, []byte(loaded.Frontend.PrivateKey), 0o600)); err != nil {
		t.Fatal(err)
	}
	return server, key
}

func TestUpgradeLeavesReferencesAlone(t *testing.T) {
	path, key := referring(t)
	upgraded, err := config.Upgrade(path, now)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(upgraded), "private_key: file:"+key) {
		t.Error("the key that a reference names was written into the file")
	}
}

func TestRotateKeysRefusesAKeyThatIsKeptElsewhere(t *testing.T) {
	path, key := referring(t)
	_, err := config.RotateKeys(path, now)
	if !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), "Frontend.private_key") || !strings.Contains(err.Error(), "file:"+key) {
		t.Errorf("%v", err)
	}
}

func TestRotateKeysKeepsTheAuthority(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.yaml")
	if err := os.WriteFile(path, generated, 0o600); err != nil {
		t.Fatal(err)
	}
	rotated, err := config.RotateKeys(path, now)
	if err != nil {
		t.Fatal(err)
	}
	before, after := parse(t, string(generated), config.Options{}), parse(t, string(rotated), config.Options{})
	if after.Frontend.PrivateKey == before.Frontend.PrivateKey || after.Gossip.Key == before.Gossip.Key || after.Bus.PrivateKey == before.Bus.PrivateKey {
		t.Error("a key was not changed")
	}
	if after.Client.CACertificate != before.Client.CACertificate || after.CA.PrivateKey != before.CA.PrivateKey {
		t.Error("the authority changed: agents would be lost")
	}
}

func TestShowHidesEverySecret(t *testing.T) {
	mail := map[string]any{"server": "mail.example", "server_port": 25, "auth_username": "pack", "auth_password": "pass-w0rd"}
	loaded := parse(t, string(generated), config.Options{MergeJSON: jsonText(map[string]any{"Mail": mail})})
	shown, err := loaded.Show()
	if err != nil {
		t.Fatal(err)
	}
	if m := loaded.Mail; m.Server != "mail.example" || m.ServerPort != 25 || m.AuthPassword != "pass-w0rd" || !strings.Contains(string(shown), "mail.example") {
		t.Errorf("mail is %+v", m)
	}
	secrets := []string{"pass-w0rd", loaded.Client.Nonce, loaded.Gossip.Key, loaded.ObfuscationNonce, "PRIVATE KEY"}
	for _, secret := range secrets {
		if strings.Contains(string(shown), secret) {
			t.Errorf("shows %.20q", secret)
		}
	}
	if loaded.Client.Nonce == "<hidden>" {
		t.Error("Show changed the file itself")
	}
}

func TestSecretsMayBeReferences(t *testing.T) {
	key := filepath.Join(t.TempDir(), "gossip")
	want := parse(t, string(generated), config.Options{}).Gossip.Key
	if err := os.WriteFile(key, []byte(want+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	merge := func(reference string) string {
		return jsonText(map[string]any{"Gossip": map[string]any{"key": reference}})
	}
	if got := parse(t, string(generated), config.Options{MergeJSON: merge("file:" + key)}).Gossip.Key; got != want {
		t.Errorf("file: gave %q", got)
	}
	t.Setenv("PACK_GOSSIP", want)
	if got := parse(t, string(generated), config.Options{MergeJSON: merge("env:PACK_GOSSIP")}).Gossip.Key; got != want {
		t.Errorf("env: gave %q", got)
	}
	if _, err := config.Parse("s.yaml", generated, config.Options{MergeJSON: merge("env:PACK_ABSENT")}); err == nil {
		t.Error("an absent variable was accepted")
	}
}

func TestNodeSectionAndPortOffset(t *testing.T) {
	text := string(generated) + "Nodes:\n  eu-2:\n    Frontend:\n      bind_address: 10.0.0.2\n    GUI:\n      bind_port: 9999\n"
	loaded := parse(t, text, config.Options{Node: "eu-2", PortOffset: 100})
	if loaded.Frontend.BindAddress != "10.0.0.2" || loaded.GUI.BindPort != 10099 || loaded.Frontend.BindPort != 8100 {
		t.Errorf("listens on %s:%d, GUI %d", loaded.Frontend.BindAddress, loaded.Frontend.BindPort, loaded.GUI.BindPort)
	}
}

func TestWorldReadableKeysAreAWarning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.yaml")
	if err := os.WriteFile(path, generated, 0o600); err != nil {
		t.Fatal(err)
	}
	if loaded, err := config.Load(path, config.Options{}); err != nil || len(loaded.Warnings) != 0 {
		t.Fatalf("private file: %v, %v", loaded, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	loaded, err := config.Load(path, config.Options{})
	if err != nil || len(loaded.Warnings) != 1 || !strings.Contains(loaded.Warnings[0].String(), "0644") {
		t.Errorf("world-readable file: %v, %v", loaded.Warnings, err)
	}
}

func TestClientFileHoldsNothingOfTheServer(t *testing.T) {
	loaded := parse(t, string(generated), config.Options{})
	text, err := loaded.ClientFile()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "PRIVATE KEY") || strings.Contains(string(text), "Frontend") {
		t.Errorf("client file:\n%s", text)
	}
	client := parse(t, string(text), config.Options{ClientOnly: true})
	if client.Client.Nonce != loaded.Client.Nonce || len(client.Warnings) != 0 {
		t.Errorf("client file reads as %q, warnings %v", client.Client.Nonce, client.Warnings)
	}
}

func TestWriteNewNeverReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.yaml")
	if err := config.WriteNew(path, []byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := config.WriteNew(path, []byte("b")); !errors.Is(err, config.ErrExists) {
		t.Errorf("second write: %v", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "a" {
		t.Errorf("file now holds %q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("Client:\n  nonce: x\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("Nodes: {n: {Client: 5}}\nClient: {}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, o := range []config.Options{{}, {ClientOnly: true}, {Node: "n", MergeJSON: "{}"}} {
			if _, err := config.Parse("f.yaml", raw, o); err != nil && !errors.Is(err, config.ErrInvalid) {
				t.Errorf("error is not ErrInvalid: %v", err)
			}
		}
	})
}

func jsonText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}
