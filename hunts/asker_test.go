package hunts_test

import (
	"context"
	"testing"
	"testing/synctest"

	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/vql"
)

// askingPost is a foreman with an asker behind it.
type askingPost struct {
	*post
	asker     *hunts.Asker
	inquiries []flows.Inquiry
}

func newAskingPost(t *testing.T, w *world, here ...int) *askingPost {
	t.Helper()
	engine, err := vql.NewEngine(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &askingPost{}
	a.post = newPost(w, here...)
	a.post.forward = func(q hunts.Question) { a.asker.Ask(q) }
	a.asker = hunts.NewAsker(hunts.AskerOptions{
		Room: w.Room, Foreman: a.Foreman, Engine: engine,
		Inquire: func(q flows.Inquiry) { a.inquiries = append(a.inquiries, q) },
	})
	return a
}

// running runs test with foreman and asker inside a bubble.
func (a *askingPost) running(t *testing.T, test func(settle func())) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1) // one answer
	go func() { done <- a.asker.Run(ctx) }()
	a.post.running(t, test)
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// answer lets the i-th client that was asked say rows.
func (a *askingPost) answer(i int, rows ...string) {
	q := a.inquiries[i]
	h := flows.Heard{Org: q.Org, Client: q.Client, Hunt: q.Hunt, Asked: q.Asked, Whole: true, Count: int64(len(rows))}
	for _, row := range rows {
		h.Rows = append(h.Rows, []byte(row))
	}
	a.asker.Heard(h)
}

func TestConditionsDecide(t *testing.T) {
	for name, test := range map[string]struct {
		condition, filter string
		rows              []string
		pending, declined int
		asked             bool
	}{
		"a row says yes":                {"SELECT 1", "", []string{`{"a":1}`}, 1, 0, true},
		"none says no":                  {"SELECT 1", "", nil, 0, 1, true},
		"a filter that leaves a row":    {"SELECT 1", "SELECT * FROM rows WHERE a = 1", []string{`{"a":0}`, `{"a":1}`}, 1, 0, true},
		"a filter that leaves none":     {"SELECT 1", "SELECT * FROM rows WHERE a = 2", []string{`{"a":0}`, `{"a":1}`}, 0, 1, true},
		"a filter about the client":     {"", "SELECT * FROM scope() WHERE client.client_id =~ '^C[.]'", nil, 1, 0, false},
		"a filter that fails says no":   {"", "SELECT * FROM nosuch()", nil, 0, 1, false},
		"a filter has no permissions":   {"", "SELECT * FROM clients()", nil, 0, 1, false},
		"a row that is no object is no": {"SELECT 1", "SELECT * FROM rows", []string{`{"a":`}, 0, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				a := newAskingPost(t, w, 0)
				k := w.create(t, func(c *hunts.Create) {
					c.Conditions.Condition, c.Conditions.Filter = test.condition, test.filter
					if test.condition != "" {
						c.Conditions.ConditionRequest = []byte{1}
					}
				})
				a.running(t, func(settle func()) {
					settle()
					if len(a.inquiries) != map[bool]int{true: 1}[test.asked] {
						t.Fatalf("%d inquiries", len(a.inquiries))
					}
					if test.asked {
						a.answer(0, test.rows...)
					}
					settle()
					w.counts(t, k, test.pending, 0, 0, 0, test.declined, 0, 0)
				})
			})
		})
	}
}

// An answer of before a change says nothing, and one that comes in pieces to several
// nodes makes the client be asked again.
func TestOldAndScatteredAnswersDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := newAskingPost(t, w, 0)
		k := w.create(t, func(c *hunts.Create) {
			c.Conditions.Condition, c.Conditions.ConditionRequest, c.Conditions.Filter = "SELECT 1", []byte{1}, "SELECT * FROM rows"
		})
		a.running(t, func(settle func()) {
			settle()
			w.must(t)(w.clients.PlanLabels(ids.RootOrg, idsOf(0), []string{"x"}, nil))
			settle()
			a.answer(0) // no
			settle()
			w.counts(t, k, 0, 0, 0, 0, 0, 0, 0)
			if len(a.inquiries) != 2 {
				t.Fatalf("asked %d times", len(a.inquiries))
			}
			q := a.inquiries[1]
			a.asker.Heard(flows.Heard{Org: q.Org, Client: q.Client, Hunt: q.Hunt, Asked: q.Asked, Count: 2})
			settle()
			w.counts(t, k, 0, 0, 0, 0, 0, 0, 0)
			q.Expired()
			settle()
			if len(a.inquiries) != 3 {
				t.Fatalf("asked %d times", len(a.inquiries))
			}
			a.answer(2, `{"a":1}`)
			settle()
			w.counts(t, k, 1, 0, 0, 0, 0, 0, 0)
		})
	})
}
