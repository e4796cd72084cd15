package vql

import (
	"context"
	"errors"
	"fmt"
	"time"
)

func timeFunctions() []*Function {
	return []*Function{
		NewFunction(Spec{Name: "timestamp", Doc: "Makes a time of a number or a string."}, timestampFunction),
		NewFunction(Spec{Name: "timestamp_format", Doc: "Prints a time in a Go layout."}, timestampFormatFunction),
		NewFunction(Spec{Name: "now", Doc: "The current time in seconds, or nanoseconds."}, nowFunction),
		NewFunction(Spec{Name: "sleep", Doc: "Waits; ends early when the query does."}, sleepFunction),
	}
}

type timestampArgs struct {
	Epoch       Value  `vql:"epoch" doc:"A number (its unit is guessed from its size) or a string."`
	CocoaTime   *int64 `vql:"cocoatime" doc:"Seconds since 2001."`
	MacTime     *int64 `vql:"mactime" doc:"Seconds since 1904."`
	WinFileTime *int64 `vql:"winfiletime" doc:"100 ns since 1601."`
	String      Value  `vql:"string" doc:"A text in any common form."`
	Format      string `vql:"format" doc:"The Go layout of string."`
}

// Seconds from the starts of other clocks to 1970.
const (
	cocoaEpoch = 978307200
	macEpoch   = -2082844800
	winEpoch   = -11644473600
)

func timestampFunction(ctx context.Context, scope *Scope, args *timestampArgs) (Value, error) {
	switch {
	case args.CocoaTime != nil:
		return time.Unix(*args.CocoaTime+cocoaEpoch, 0).UTC(), nil
	case args.MacTime != nil:
		return time.Unix(*args.MacTime+macEpoch, 0).UTC(), nil
	case args.WinFileTime != nil:
		n := *args.WinFileTime
		return time.Unix(n/1e7+winEpoch, n%1e7*100).UTC(), nil
	case args.String != nil && !IsNull(args.String):
		return scope.textTime(ctx, scope.String(ctx, args.String), args.Format)
	case args.Epoch == nil || IsNull(args.Epoch):
		return NULL, nil
	}
	t, ok := scope.Time(args.Epoch)
	if !ok {
		return nil, fmt.Errorf("%s is no time", shorten(scope.String(ctx, args.Epoch), 100))
	}
	return t, nil
}

func (s *Scope) textTime(_ context.Context, text, layout string) (Value, error) {
	if layout == "" {
		t, ok := s.Time(text)
		if !ok {
			return nil, fmt.Errorf("%s is no time", shorten(text, 100))
		}
		return t, nil
	}
	t, err := time.ParseInLocation(layoutOf(layout), text, s.parseLocation())
	if err != nil {
		return nil, err
	}
	return t.UTC(), nil
}

// layouts are the Go layouts that have names.
var layouts = map[string]string{
	"Layout": time.Layout, "ANSIC": time.ANSIC, "UnixDate": time.UnixDate, "RubyDate": time.RubyDate,
	"RFC822": time.RFC822, "RFC822Z": time.RFC822Z, "RFC850": time.RFC850, "RFC1123": time.RFC1123,
	"RFC1123Z": time.RFC1123Z, "RFC3339": time.RFC3339, "RFC3339Nano": time.RFC3339Nano,
	"Kitchen": time.Kitchen, "Stamp": time.Stamp, "StampMilli": time.StampMilli,
	"StampMicro": time.StampMicro, "StampNano": time.StampNano, "DateTime": time.DateTime,
	"DateOnly": time.DateOnly, "TimeOnly": time.TimeOnly,
}

func layoutOf(name string) string {
	if layout, ok := layouts[name]; ok {
		return layout
	}
	return name
}

type timestampFormatArgs struct {
	Time   Value  `vql:"time,required" doc:"The time."`
	Format string `vql:"format" doc:"A Go layout or its name; RFC3339."`
}

func timestampFormatFunction(_ context.Context, scope *Scope, args *timestampFormatArgs) (Value, error) {
	t, ok := scope.Time(args.Time)
	if !ok {
		return nil, errors.New("time is no time")
	}
	layout := time.RFC3339
	if args.Format != "" {
		layout = layoutOf(args.Format)
	}
	return t.In(scope.Location()).Format(layout), nil
}

type nowArgs struct {
	NS bool `vql:"ns" doc:"Give nanoseconds."`
}

func nowFunction(_ context.Context, _ *Scope, args *nowArgs) (Value, error) {
	if args.NS {
		return time.Now().UnixNano(), nil
	}
	return time.Now().Unix(), nil
}

type sleepArgs struct {
	Time int64 `vql:"time" doc:"Seconds."`
	MS   int64 `vql:"ms" doc:"Milliseconds."`
}

func sleepFunction(ctx context.Context, scope *Scope, args *sleepArgs) (Value, error) {
	d := time.Duration(args.Time)*time.Second + time.Duration(args.MS)*time.Millisecond
	if args.Time == 0 && args.MS == 0 {
		d = time.Second
	}
	return true, scope.wait(ctx, d)
}

// wait waits for d, or until ctx or its statement ends.
func (s *Scope) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	running := s.session.lifeOf(ctx)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-running.Done():
		return running.Err()
	}
}
