package endpoint

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func TestExecOutputWaitsForItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, program := io.Pipe()
		o := &outlet{from: from, left: execLinger}
		pieces := make(chan output)
		go func() {
			defer close(pieces)
			o.read(t.Context(), pieces)
		}()
		go func() {
			for range 5 {
				_, _ = io.WriteString(program, "x") // the count of pieces tells
			}
			_ = program.Close()
		}()
		o.programEnded()
		got := ""
		for piece := range pieces {
			got += string(piece.data)
			time.Sleep(time.Hour) // rows are not taken
		}
		if got != "xxxxx" || o.cut {
			t.Errorf("read %q, cut %v", got, o.cut)
		}
	})
}

func TestExecOutputHeldByChildrenIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, child := io.Pipe()
		o := &outlet{from: from, left: execLinger}
		pieces := make(chan output)
		go func() {
			defer close(pieces)
			o.read(t.Context(), pieces)
		}()
		go func() { // writes for ever
			for {
				time.Sleep(execLinger/2 - time.Millisecond)
				if _, err := io.WriteString(child, "x"); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Minute)
		go o.programEnded()
		got := ""
		for piece := range pieces {
			got += string(piece.data)
		}
		if !o.cut || got != "xxxx" { // two that were under way, and two within the time
			t.Errorf("read %q, cut %v", got, o.cut)
		}
		time.Sleep(execLinger) // the child ends
	})
}
