// Package floors keeps the floor plan true: who may import whom.
package floors

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayImport lists, for every room, the rooms it may import. Ground packages
// (ids, proto/..., internal/...) are open to all and not listed. Test kits
// (<room>test) belong to the room in whose folder they lie. Changing the plan
// is a line here, visible in review.
var mayImport = map[string]string{
	"filestore": "", "wire": "", "cluster": "", "notifier": "", "config": "", "vql": "", "clients": "", "users": "",
	"replication":       "filestore",
	"artifacts":         "vql",
	"inventory":         "filestore artifacts",
	"flows":             "filestore artifacts",
	"monitoring":        "filestore artifacts flows vql",
	"notebooks":         "filestore",
	"queues":            "artifacts clients filestore flows hunts notebooks",
	"runner":            "artifacts flows vql",
	"hunts":             "filestore artifacts clients flows vql",
	"vql/endpoint":      "vql vql/yara vql/endpoint/ebpf",
	"vql/endpoint/ebpf": "",
	"vql/yara":          "",
	"container":         "filestore",
	"collector":         "artifacts container vql",
	"collections":       "clients container filestore flows",
	"vql/server":        "vql artifacts clients filestore flows hunts inventory notebooks users",
	"master":            "filestore replication clients flows",
	"minion":            "replication clients flows",
	"frontend":          "wire notifier clients flows",
	"api":               "artifacts clients collections container filestore flows hunts inventory users vql",
	"client":            "artifacts wire vql vql/endpoint",
	"pool":              "artifacts client wire vql vql/endpoint",
}

// homes names the only rooms that may import a third party.
var homes = map[string]string{
	"www.velocidex.com/golang/vfilter":        "vql integration/benchvql",
	"github.com/Velocidex/ordereddict":        "vql integration/benchvql",
	"github.com/hashicorp/memberlist":         "cluster",
	"github.com/spf13/cobra":                  "cmd/raptorpack",
	"github.com/gorilla/websocket":            "wire",
	"github.com/danielgtaylor/huma/v2":        "api",
	"github.com/fsnotify/fsnotify":            "internal/watch",
	"go.yaml.in/yaml/v3":                      "config artifacts client vql vql/endpoint api cmd/raptorpack integration/benchvql",
	"github.com/klauspost/compress":           "internal/inflate filestore wire api client flows vql/endpoint vql/server cmd/agent cmd/raptorpack",
	"google.golang.org/grpc":                  "replication api proto/wirepb proto/buspb cmd/raptorpack integration",
	"github.com/prometheus/client_golang":     "vql vql/yara collections filestore wire cluster notifier frontend flows hunts inventory runner clients users replication master monitoring notebooks queues api client cmd/node cmd/agent cmd/raptorpack pool artifacts config integration",
	"github.com/tidwall/gjson":                "flows hunts api integration cmd/raptorpack",
	"github.com/RoaringBitmap/roaring/v2":     "hunts clients",
	"github.com/google/renameio/v2":           "config client",
	"github.com/shirou/gopsutil/v4":           "vql/endpoint cmd/node cmd/raptorpack internal/throttle client",
	"github.com/pires/go-proxyproto":          "frontend",
	"github.com/coreos/go-systemd/v22":        "cmd/raptorpack",
	"golang.org/x/crypto":                     "users wire",
	"github.com/oschwald/maxminddb-golang/v2": "vql/endpoint",
	"modernc.org":                             "vql/endpoint",
	"github.com/ulikunitz/xz":                 "vql/endpoint",
	"github.com/elastic/go-libaudit/v2":       "vql/endpoint",
	"github.com/miekg/dns":                    "vql/endpoint",
	"github.com/syndtr/goleveldb":             "vql/endpoint",
	"github.com/tetratelabs/wazero":           "vql/yara",
	"github.com/gabriel-vasile/mimetype":      "vql/endpoint",
	"github.com/cilium/ebpf":                  "vql/endpoint/ebpf",
}

type goPackage struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func TestImportsKeepTheFloorPlan(t *testing.T) {
	for _, pkg := range listPackages(t) {
		room := roomOf(pkg.ImportPath)
		if free(room) {
			continue
		}
		plan, known := mayImport[room]
		if !known {
			t.Errorf("%s is a room without a line in the floor plan", room)
			continue
		}
		for _, imported := range pkg.Imports {
			other, ours := strings.CutPrefix(imported, "raptorpack/")
			if !ours || ground(other) {
				continue
			}
			if target := roomOf(imported); target != room && !slices.Contains(strings.Fields(plan), target) {
				t.Errorf("%s imports %s: not in the floor plan", pkg.ImportPath, imported)
			}
		}
	}
}

func TestThirdPartiesStayHome(t *testing.T) {
	for _, pkg := range listPackages(t) {
		room := roomOf(pkg.ImportPath)
		for _, imported := range pkg.Imports {
			for module, home := range homes {
				inside := imported == module || strings.HasPrefix(imported, module+"/")
				if inside && !slices.Contains(strings.Fields(home), room) {
					t.Errorf("%s imports %s, whose home is %s", pkg.ImportPath, imported, home)
				}
			}
		}
	}
}

// roomOf maps an import path to its room: test kits belong to their room.
func roomOf(path string) string {
	room := strings.TrimPrefix(path, "raptorpack/")
	if i := strings.LastIndex(room, "/"); i > 0 && strings.HasSuffix(room, "test") {
		room = room[:i]
	}
	return room
}

func ground(room string) bool {
	return room == "ids" || strings.HasPrefix(room, "proto/") || strings.HasPrefix(room, "internal/")
}

func free(room string) bool {
	return ground(room) || room == "raptorpack" || strings.HasPrefix(room, "cmd/") ||
		strings.HasPrefix(room, "integration")
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "raptorpack/...").Output()
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	var all []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg goPackage
		if err := decoder.Decode(&pkg); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatalf("decode package list: %v", err)
		}
		all = append(all, pkg)
	}
}
