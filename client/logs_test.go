package client

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"raptorpack/vql"
)

func TestLogLinesThatMeetAnEndedContextWaitForTheNextFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := OpenBuffer(BufferOptions{MemoryBytes: 100})
		if err != nil {
			t.Fatal(err)
		}
		put(t, b, "F.B", "this fills the buffer")
		l := newLogSink(b, "F.A", 0, 0, "")
		add := func(text string) {
			if _, err := l.add(t.Context(), "", vql.LevelInfo, text); err != nil {
				t.Fatal(err)
			}
		}
		add("first")
		ctx, cancel := context.WithCancel(t.Context())
		flushed := make(chan error, 1)
		go func() { flushed <- l.flush(ctx) }()
		synctest.Wait()
		add("second")
		cancel()
		if <-flushed == nil {
			t.Fatal("a full buffer took the log")
		}
		drain(t, b)
		if err := l.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := sent(t, lease(t, b, 1<<20))[0].GetLogMessage()
		lines := got.GetJsonl()
		if got.GetId() != 0 || got.GetNumberOfRows() != 2 || strings.Index(lines, "first") > strings.Index(lines, "second") {
			t.Fatalf("log %v", got)
		}
	})
}
