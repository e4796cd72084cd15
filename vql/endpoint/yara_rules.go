package endpoint

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"raptorpack/vql"
	"raptorpack/vql/yara"
)

// yaraEngine is the process's only one: its module takes time to translate, and
// memory to keep.
var yaraEngine = sync.OnceValue(func() *yara.Engine { return yara.New(yara.Options{}) })

// Yara is the engine of yara() and proc_yara(), whose metrics a host may register.
func Yara() *yara.Engine { return yaraEngine() }

// errNoRules means that a call names neither rules nor a key that has some.
var errNoRules = errors.New("rules are needed, or the key of rules that were given before")

// yaraID tells compiled rules apart: a key that comes with other rules means these.
type yaraID struct{ key, rules, namespace, vars string }

// yaraCache holds the rules that a session has compiled.
type yaraCache struct {
	mu      sync.Mutex
	entries map[yaraID]*yaraEntry
	ids     []yaraID // the oldest first
	byKey   map[string]yaraID
	closed  bool
}

// yaraEntry is one set of rules; err and rules are set when done is closed.
type yaraEntry struct {
	done  chan struct{} // closed by who compiles; nobody sends
	rules *yara.Rules
	err   error
}

type yaraCacheKey struct{}

// maxYaraRules bounds the rules kept. They may be made of a row's values, so that
// any number comes; the oldest goes.
const maxYaraRules = 16

// yaraRulesOf compiles rules, or finds those compiled before in this session.
func yaraRulesOf(ctx context.Context, scope *vql.Scope, name, text, key, namespace string, vars *vql.Dict) (*yara.Rules, error) {
	cached, err := scope.Cache().Get(yaraCacheKey{}, func() (any, error) {
		c := &yaraCache{entries: map[yaraID]*yaraEntry{}, byKey: map[string]yaraID{}}
		late := context.WithoutCancel(ctx)
		scope.OnRootClose(func() { c.close(late, scope) })
		return c, nil
	})
	if err != nil {
		return nil, err
	}
	c, variables := cached.(*yaraCache), yaraVars(ctx, scope, vars)
	id := yaraID{key, text, namespace, fmt.Sprintf("%#v", variables)}
	return c.get(ctx, id, func() (*yara.Rules, error) {
		r, err := yaraEngine().Compile(ctx, yara.Source{Text: yaraText(text), Namespace: namespace, Vars: variables})
		if err != nil {
			return nil, err
		}
		for _, w := range r.Warnings {
			scope.Log(vql.LevelDebug, "%s: %s", name, w)
		}
		return r, nil
	})
}

// get returns the rules of an id. The first who asks compiles them, all others
// wait; when the first is told to stop, another takes over.
func (c *yaraCache) get(ctx context.Context, id yaraID, compile func() (*yara.Rules, error)) (*yara.Rules, error) {
	for {
		e, mine, err := c.entry(id)
		if err != nil {
			return nil, err
		}
		if mine {
			e.rules, e.err = compile()
			old := c.settle(id, e)
			close(e.done)
			for _, r := range old {
				e.err = errors.Join(e.err, r.Close(ctx)) // who is scanning with them goes on
			}
			return e.rules, e.err
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if e.err == nil || ctx.Err() != nil || !errors.Is(e.err, context.Canceled) && !errors.Is(e.err, context.DeadlineExceeded) {
			return e.rules, e.err
		}
	}
}

// entry finds the entry of an id, or begins one that is the caller's to fill.
func (c *yaraCache) entry(id yaraID) (e *yaraEntry, mine bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.byKey[id.key]; ok && id.rules == "" && id.key != "" {
		id = known
	}
	if e = c.entries[id]; e != nil {
		return e, false, nil
	}
	if strings.TrimSpace(id.rules) == "" {
		return nil, false, errNoRules
	}
	e = &yaraEntry{done: make(chan struct{})}
	c.entries[id] = e
	return e, true, nil
}

// settle keeps an entry whose rules compiled, or never will, and returns the rules
// to close for it. What failed otherwise is tried again when it is asked for.
func (c *yaraCache) settle(id yaraID, e *yaraEntry) (old []*yara.Rules) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var wrong *yara.CompileError
	if e.err != nil && !errors.As(e.err, &wrong) {
		delete(c.entries, id)
		return nil
	}
	if c.closed {
		return present(e.rules)
	}
	c.ids = append(c.ids, id)
	if id.key != "" && e.err == nil {
		c.byKey[id.key] = id
	}
	if len(c.ids) <= maxYaraRules {
		return nil
	}
	oldest := c.ids[0]
	c.ids = slices.Delete(c.ids, 0, 1)
	old = present(c.entries[oldest].rules)
	delete(c.entries, oldest)
	if c.byKey[oldest.key] == oldest {
		delete(c.byKey, oldest.key)
	}
	return old
}

// present is a list of one, or of none for rules that do not compile.
func present(r *yara.Rules) []*yara.Rules {
	if r == nil {
		return nil
	}
	return []*yara.Rules{r}
}

// close frees all rules when the session ends.
func (c *yaraCache) close(ctx context.Context, scope *vql.Scope) {
	c.mu.Lock()
	var old []*yara.Rules
	for _, id := range c.ids {
		old = append(old, present(c.entries[id].rules)...)
	}
	c.closed = true
	c.mu.Unlock()
	for _, r := range old {
		if err := r.Close(ctx); err != nil {
			scope.Log(vql.LevelWarn, "yara: free rules: %v", err)
		}
	}
}

// yaraVars reads external variables; what is no number, truth value or text becomes
// a text.
func yaraVars(ctx context.Context, scope *vql.Scope, vars *vql.Dict) []yara.Var {
	if vars == nil {
		return nil
	}
	var out []yara.Var
	for _, name := range vars.Keys() {
		v, _ := vars.Get(name)
		out = append(out, yara.Var{Name: name, Value: yaraValue(ctx, scope, scope.Real(ctx, v))})
	}
	return out
}

func yaraValue(ctx context.Context, scope *vql.Scope, v vql.Value) any {
	switch t := v.(type) {
	case int64, float64, bool, string:
		return t
	case int:
		return int64(t)
	case uint64:
		return int64(t)
	}
	return scope.String(ctx, v)
}

// yaraShort is the short form: modifiers, a colon, a word.
var yaraShort = regexp.MustCompile(`^\s*((?:(?:ascii|wide|nocase|fullword|xor|base64|base64wide)\s+)*(?:ascii|wide|nocase|fullword|xor|base64|base64wide)?)\s*:((?s:.+))$`)

// yaraText writes the short form out as a rule; other texts stay as they are.
func yaraText(text string) string {
	m := yaraShort.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	return fmt.Sprintf("rule X { strings: $a = %s %s condition: any of them }", yaraQuote(m[2]), m[1])
}

// yaraQuote writes a text as a YARA string.
func yaraQuote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(text) {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
