package vql_test

import (
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/vql"
)

func TestFifoIsReadByEachSelect(t *testing.T) {
	e := engine()
	synctest.Test(t, func(t *testing.T) {
		scope := e.NewScope(vql.SessionOptions{Limits: vql.Limits{TempDir: t.TempDir()}})
		defer scope.Close()
		run := func(text string) []string {
			t.Helper()
			got, err := query(t, scope, text)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		run(`LET Ticks = SELECT count() AS N FROM clock(period=1)
		     LET Stored <= SELECT * FROM fifo(query=Ticks, max_age=100, max_rows=3)
		     LET Inline <= SELECT * FROM fifo(query={SELECT count() AS N FROM clock(period=1)}, max_age=2, max_rows=100)
		     LET Ends <= SELECT * FROM fifo(query={SELECT 1 AS A FROM scope()}, max_age=1)`)
		wantRows(t, run("SELECT * FROM Stored"))
		time.Sleep(2500 * time.Millisecond) // in the bubble
		run("LET Then <= SELECT * FROM Stored")
		wantRows(t, run("SELECT * FROM Stored"), `{"N":1}`, `{"N":2}`)
		time.Sleep(3 * time.Second)
		wantRows(t, run("SELECT * FROM Stored"), `{"N":3}`, `{"N":4}`, `{"N":5}`)
		wantRows(t, run("SELECT N FROM Inline"), `{"N":4}`, `{"N":5}`)
		wantRows(t, run("SELECT N * 10 AS M FROM Stored WHERE N > 3"), `{"M":40}`, `{"M":50}`)
		wantRows(t, run("SELECT * FROM Then"), `{"N":1}`, `{"N":2}`)
		// A query that has ended runs again for who reads its window.
		run("SELECT * FROM Ends")
		synctest.Wait()
		wantRows(t, run("SELECT * FROM Ends LIMIT 1"), `{"A":1}`)
	})
}
