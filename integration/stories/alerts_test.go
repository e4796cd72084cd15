package stories_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// ruleFile is what Prometheus reads, as far as it is used here: any other key is an
// error.
type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []alertRule
	}
}

type alertRule struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func readRules(t *testing.T) (rules []alertRule) {
	t.Helper()
	file, err := os.Open(filepath.FromSlash("../../deploy/prometheus/raptorpack.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	decoder := yaml.NewDecoder(file)
	decoder.KnownFields(true)
	var content ruleFile
	if err := decoder.Decode(&content); err != nil {
		t.Fatal(err)
	}
	for _, group := range content.Groups {
		if group.Name == "" || len(group.Rules) == 0 {
			t.Errorf("group %q has no name or no rules", group.Name)
		}
		rules = append(rules, group.Rules...)
	}
	return rules
}

// documented are the metrics of docs/metrics.md, which is made from the source.
func documented(t *testing.T) promNames {
	t.Helper()
	page, err := os.ReadFile(filepath.FromSlash("../../docs/metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := promNames{"up": {kind: "gauge"}} // Prometheus' own
	for _, row := range regexp.MustCompile("(?m)^\\| `(raptorpack_\\w+)` \\| (\\w+) \\| ([^|]*) \\|").FindAllStringSubmatch(string(page), -1) {
		m := promMetric{kind: row[2]}
		for label := range strings.SplitSeq(row[3], ",") {
			if label = strings.TrimSpace(label); label != "" {
				m.labels = append(m.labels, label)
			}
		}
		names[row[1]] = m
	}
	return names
}

func TestAlertRulesAreRules(t *testing.T) {
	names, seen := documented(t), map[string]bool{}
	if len(names) < 100 {
		t.Fatalf("docs/metrics.md has %d metrics", len(names))
	}
	for _, r := range readRules(t) {
		if seen[r.Alert] || !regexp.MustCompile(`^Raptorpack[A-Z]\w+$`).MatchString(r.Alert) {
			t.Errorf("alert %q: twice, or not named as the others", r.Alert)
		}
		seen[r.Alert] = true
		expr, err := readExpr(r.Expr, names)
		if err != nil {
			t.Errorf("%s: %v", r.Alert, err)
			continue
		}
		for _, text := range r.Annotations {
			for _, used := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(text, -1) {
				if !expr.keeps(used[1]) {
					t.Errorf("%s: the label %s of %q is gone after the sum", r.Alert, used[1], text)
				}
			}
		}
		if _, err := time.ParseDuration(r.For); r.For != "" && err != nil {
			t.Errorf("%s: for: %v", r.Alert, err)
		}
		if s := r.Labels["severity"]; len(r.Labels) != 1 || s != "page" && s != "ticket" {
			t.Errorf("%s: labels %v, want a severity of page or ticket", r.Alert, r.Labels)
		}
		if r.Annotations["summary"] == "" || r.Annotations["runbook"] != "docs/operations.md#alerts" || len(r.Annotations) != 2 {
			t.Errorf("%s: annotations %v, want a summary and the runbook", r.Alert, r.Annotations)
		}
	}
}

// A word in a rule that no source has, as a reason that was renamed, is an alert
// that never comes.
func TestAlertRulesAskForValuesThatExist(t *testing.T) {
	names := documented(t)
	for _, r := range readRules(t) {
		expr, err := readExpr(r.Expr, names)
		if err != nil {
			t.Fatalf("%s: %v", r.Alert, err)
		}
		for _, m := range expr.matchers {
			room, _, _ := strings.Cut(strings.TrimPrefix(m.metric, "raptorpack_"), "_")
			if m.label == "job" {
				continue // the operator's
			}
			for value := range strings.SplitSeq(m.value, "|") {
				if !inSource(t, room, `"`+value+`"`) {
					t.Errorf("%s: no source of %s has %s=%q", r.Alert, room, m.label, value)
				}
			}
		}
	}
}

func inSource(t *testing.T, room, text string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", room, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("sources of %s: %v, %v", room, files, err)
	}
	return slices.ContainsFunc(files, func(name string) bool {
		content, err := os.ReadFile(name)
		return err == nil && strings.Contains(string(content), text)
	})
}

// Each alert has its line in the runbook, and each line its alert.
func TestAlertsHaveTheirLineInTheRunbook(t *testing.T) {
	page, err := os.ReadFile(filepath.FromSlash("../../docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Alerts\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var lines, alerts []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| .+ \\| .+ \\|$").FindAllStringSubmatch(section, -1) {
		lines = append(lines, "Raptorpack"+row[1])
	}
	for _, r := range readRules(t) {
		alerts = append(alerts, r.Alert)
	}
	if !slices.Equal(lines, alerts) {
		t.Errorf("the runbook has %q, the rules %q", lines, alerts)
	}
}

// A node that runs shows what the rules ask for. What has labels shows with its
// first event.
func TestNodeHasTheMetricsOfTheAlerts(t *testing.T) {
	t.Parallel()
	names := documented(t)
	p := launch(t, options{})
	p.agent(0).collect(100).complete()
	code, text := p.monitoring("/metrics")
	if code != http.StatusOK {
		t.Fatalf("/metrics: %d %s", code, text)
	}
	for _, r := range readRules(t) {
		expr, err := readExpr(r.Expr, names)
		if err != nil {
			t.Fatalf("%s: %v", r.Alert, err)
		}
		for _, name := range expr.metrics {
			kind := regexp.MustCompile(`(?m)^# TYPE ` + name + ` (\w+)$`).FindStringSubmatch(text)
			switch {
			case name == "up", kind == nil && len(names[name].labels) > 0:
			case strings.HasPrefix(name, "raptorpack_hunts_") && !strings.Contains(text, "\nraptorpack_hunts_"):
				// A node without hunts shows nothing of them.
			case kind == nil:
				t.Errorf("%s: the node has no %s", r.Alert, name)
			case kind[1] != names[name].kind:
				t.Errorf("%s: %s is a %s at the node", r.Alert, name, kind[1])
			}
		}
	}
}

func TestBrokenExpressionsAreSeen(t *testing.T) {
	names := promNames{
		"a_total": {kind: "counter"}, "b_total": {kind: "counter", labels: []string{"kind"}}, "g": {kind: "gauge"}, "h_seconds": {kind: "histogram", labels: []string{"op"}},
	}
	for _, good := range []string{
		`g > 1`, `max by (job) (g) == 0`, `rate(a_total[5m]) > 0 or increase(b_total{kind=~"x|y",job!="z"}[1h30m]) > 0`, `predict_linear(g[6h], 86400) > -1.5e3`,
		`histogram_quantile(0.99, sum by (op, le) (rate(h_seconds_bucket{op="sync"}[5m]))) > 1`, `sum by (job) (g offset 15m) < 0.7 * sum by (job) (g)`,
		`g - time() < 86400`,
	} {
		if _, err := readExpr(good, names); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		``, `(g > 1`, `g > 1)`, `g >`, `max by (nosuch) (g) == 0`, `nosuch > 0`, `nosuch(g) > 0`, `rate(a_total) > 0`, `a_total[5m] > 0`, `rate(g[5m]) > 0`, `rate(a_total[5 m]) > 0`, `rate(a_total[5x]) > 0`,
		`b_total{kind="x} > 0`, `b_total{nosuch="x"} > 0`, `b_total{kind=x} > 0`, `b_total{kind~"x"} > 0`, `b_total{kind=~"("} > 0`, `h_seconds > 0`, `g_bucket > 0`, `g g > 0`, `max(g > 0] > 0`, `min_over_time(g) > 0`, `g & g`, `g - time < 1`,
	} {
		if e, err := readExpr(bad, names); err == nil {
			t.Errorf("%s: nothing wrong: %s", bad, fmt.Sprint(e))
		}
	}
}
