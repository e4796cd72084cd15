package yara_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"raptorpack/vql/yara"
)

// slow keeps libyara busy for minutes in each of the places where it loops.
var slow = map[string]string{
	"regular expressions": `rule a { strings: $a = /a+a+a+a+a+a+a+a+b/ condition: $a }`,
	"fast expressions":    `rule a { strings: $a = { 61 [0-100] 61 [0-100] 61 [0-100] 61 [0-100] 62 } condition: $a }`,
	"conditions":          `rule a { condition: for all i in (0..filesize) : (for all j in (0..filesize) : (i + j >= 0)) }`,
	"modules":             `import "math" rule a { condition: for all i in (0..filesize) : (math.entropy(0, filesize) >= 0.0) }`,
}

// A scan ends when its context does, wherever it is. The time limit of the test
// itself is what fails here.
func TestCancellingEndsAScan(t *testing.T) {
	data := strings.Repeat("a", 4<<20)
	for name, text := range slow {
		t.Run(name, func(t *testing.T) {
			r := compile(t, text)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := r.Scan(ctx, whole(data), yara.ScanOptions{})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("scan: %v", err)
			}
			// The instance is gone, the rules are not.
			if _, err := r.Scan(t.Context(), whole("b"), yara.ScanOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCancelledBeforeItBegins(t *testing.T) {
	r := compile(t, "rule a { condition: true }")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Scan(ctx, whole("-"), yara.ScanOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := engine.Compile(ctx, yara.Source{Text: "rule a { condition: true }"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	small := yara.New(yara.Options{MemoryBytes: 24 << 20})
	defer small.Close(context.WithoutCancel(t.Context()))
	r, err := small.Compile(t.Context(), yara.Source{Text: `rule a { strings: $a = "x" condition: $a }`})
	if err != nil {
		t.Fatal(err)
	}
	found, err := r.Scan(t.Context(), whole(strings.Repeat("x", 64<<20)), yara.ScanOptions{Hits: 1})
	if !errors.Is(err, yara.ErrMemory) || len(found) != 0 {
		t.Errorf("a block larger than the memory: %v, %d matches", err, len(found))
	}
	if found, err := r.Scan(t.Context(), whole("x"), yara.ScanOptions{}); err != nil || len(found) != 1 {
		t.Errorf("afterwards: %v, %d matches", err, len(found))
	}
	var many strings.Builder
	for i := range 3000 {
		many.WriteString("rule r" + strings.Repeat("x", i%90) + string(rune('a'+i%26)) + " { strings: $a = /" + strings.Repeat("[a-z]{1,200}", 30) + "/ condition: $a }\n")
	}
	if _, err := small.Compile(t.Context(), yara.Source{Text: many.String()}); err == nil {
		t.Error("rules larger than the memory were compiled")
	}
}
