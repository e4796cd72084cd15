package stories_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// promNames are the metrics that an expression may speak of.
type promNames map[string]promMetric

type promMetric struct {
	kind   string
	labels []string
}

// expr is what an expression of PromQL speaks of. The reader knows the part of the
// language that alerts are written in; Prometheus' own parser is a module with all
// of Prometheus behind it.
type expr struct {
	metrics  []string // as docs/metrics.md names them
	matchers []matcher
	kept     [][]string // labels of each "by"
}

// matcher is a condition on a label.
type matcher struct{ metric, label, value string }

// keeps reports whether the result has a label of series.
func (e *expr) keeps(label string) bool {
	return !slices.ContainsFunc(e.kept, func(by []string) bool { return !slices.Contains(by, label) })
}

// Functions by what they are given: a vector, or values over time of something that
// only grows, or of anything.
var (
	onVectors  = strings.Fields("sum max min count avg histogram_quantile absent abs")
	onGrowing  = strings.Fields("rate increase")
	onAnything = strings.Fields("changes min_over_time max_over_time avg_over_time predict_linear")
)

// exprReader goes through an expression from left to right.
type exprReader struct {
	expr
	names promNames
	rest  []string
}

var tokens = regexp.MustCompile(`^(?:\s*)("(?:[^"\\]|\\.)*"|\[\d[\dsmhdw]*\]|(?:\d+[smhdw])+\b|\d+(?:\.\d+)?(?:e\d+)?\b|[A-Za-z_]\w*|==|!=|=~|!~|<=|>=|[-+*/<>=(){},])`)

func readExpr(text string, names promNames) (*expr, error) {
	r := &exprReader{names: names}
	for rest := strings.TrimSpace(text); rest != ""; {
		at := tokens.FindStringSubmatchIndex(rest)
		if at == nil {
			return nil, fmt.Errorf("not understood: %.30s", rest)
		}
		r.rest = append(r.rest, rest[at[2]:at[3]])
		rest = strings.TrimSpace(rest[at[1]:])
	}
	if err := r.operation(""); err != nil {
		return nil, fmt.Errorf("%w before %q", err, strings.Join(r.rest, " "))
	}
	if len(r.rest) > 0 {
		return nil, fmt.Errorf("more than an expression: %q", strings.Join(r.rest, " "))
	}
	return &r.expr, nil
}

func (r *exprReader) peek() string {
	if len(r.rest) == 0 {
		return ""
	}
	return r.rest[0]
}

func (r *exprReader) next() (token string) {
	if token = r.peek(); token != "" {
		r.rest = r.rest[1:]
	}
	return token
}

func (r *exprReader) want(token string) error {
	if got := r.next(); got != token {
		return fmt.Errorf("%q where %q was expected", got, token)
	}
	return nil
}

var operators = strings.Fields("+ - * / < > == != <= >= and or unless")

// operation reads terms with operators between. within is the function whose
// argument it is, if any.
func (r *exprReader) operation(within string) error {
	for {
		if err := r.term(within); err != nil {
			return err
		}
		if !slices.Contains(operators, r.peek()) {
			return nil
		}
		r.next()
	}
}

func (r *exprReader) term(within string) error {
	switch token := r.next(); {
	case token == "":
		return errors.New("something is missing")
	case token == "-":
		return r.term(within)
	case token == "(":
		if err := r.operation(""); err != nil {
			return err
		}
		return r.want(")")
	case token[0] >= '0' && token[0] <= '9':
		return nil
	case token == "time":
		return errors.Join(r.want("("), r.want(")"))
	case slices.Contains(slices.Concat(onVectors, onGrowing, onAnything), token):
		return r.call(token)
	default:
		return r.series(token, within)
	}
}

// call reads what follows the name of a function.
func (r *exprReader) call(function string) error {
	if r.peek() == "by" {
		r.next()
		labels, err := r.labels()
		if err != nil {
			return err
		}
		r.kept = append(r.kept, labels)
	}
	if err := r.want("("); err != nil {
		return err
	}
	for {
		if err := r.operation(function); err != nil {
			return err
		}
		if r.peek() != "," {
			return r.want(")")
		}
		r.next()
	}
}

func (r *exprReader) labels() (labels []string, err error) {
	if err := r.want("("); err != nil {
		return nil, err
	}
	for {
		label := r.next()
		if !r.known(label) {
			return nil, fmt.Errorf("no metric has a label %q", label)
		}
		labels = append(labels, label)
		switch r.next() {
		case ",":
		case ")":
			return labels, nil
		default:
			return nil, errors.New("labels that do not end")
		}
	}
}

// known reports whether some metric, or every series, has a label.
func (r *exprReader) known(label string) bool {
	if label == "job" || label == "instance" || label == "le" {
		return true
	}
	for _, m := range r.names {
		if slices.Contains(m.labels, label) {
			return true
		}
	}
	return false
}

// series reads a metric with its conditions, its range and its offset.
func (r *exprReader) series(name, within string) error {
	base, bucket := strings.CutSuffix(name, "_bucket")
	m, known := r.names[base]
	switch histogram := m.kind == "histogram"; {
	case !known:
		return fmt.Errorf("there is no metric %q", name)
	case histogram != bucket:
		return fmt.Errorf("%s is a %s", base, m.kind)
	}
	r.metrics = append(r.metrics, base)
	if r.peek() == "{" {
		if err := r.conditions(base, m); err != nil {
			return err
		}
	}
	growing := slices.Contains(onGrowing, within)
	ranged := strings.HasPrefix(r.peek(), "[")
	switch {
	case ranged != (growing || slices.Contains(onAnything, within)):
		return fmt.Errorf("%s: a range in %q, or none", name, within)
	case growing && m.kind == "gauge":
		return fmt.Errorf("%s of the gauge %s", within, name)
	case ranged:
		r.next()
	}
	if r.peek() != "offset" {
		return nil
	}
	r.next()
	if span := r.next(); !regexp.MustCompile(`^(\d+[smhdw])+$`).MatchString(span) {
		return fmt.Errorf("offset of %q", span)
	}
	return nil
}

func (r *exprReader) conditions(name string, m promMetric) error {
	for r.next(); ; {
		label, operator, value := r.next(), r.next(), r.next()
		switch own := label == "job" || label == "instance" || slices.Contains(m.labels, label); {
		case !own:
			return fmt.Errorf("%s has no label %q", name, label)
		case !slices.Contains([]string{"=", "!=", "=~", "!~"}, operator):
			return fmt.Errorf("%s: operator %q", label, operator)
		case len(value) < 2 || value[0] != '"':
			return fmt.Errorf("%s: value %q", label, value)
		}
		value = strings.Trim(value, `"`)
		if _, err := regexp.Compile(value); err != nil {
			return fmt.Errorf("%s: %w", label, err)
		}
		r.matchers = append(r.matchers, matcher{name, label, value})
		switch r.next() {
		case ",":
		case "}":
			return nil
		default:
			return errors.New("conditions that do not end")
		}
	}
}
