package vql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/google/shlex"
	"www.velocidex.com/golang/vfilter/types"
)

func textFunctions() []*Function {
	return []*Function{
		NewFunction(Spec{Name: "format", Doc: "Formats values with Go's verbs."}, formatFunction),
		NewFunction(Spec{Name: "split", Doc: "Splits a string at a regex or a literal separator."}, splitFunction),
		NewFunction(Spec{Name: "lowcase", Doc: "Makes a string lower case."}, lowcaseFunction),
		NewFunction(Spec{Name: "upcase", Doc: "Makes a string upper case."}, upcaseFunction),
		NewFunction(Spec{Name: "strip", Doc: "Removes a prefix and a suffix, or white space."}, stripFunction),
		NewFunction(Spec{Name: "substr", Doc: "Cuts a string by bytes."}, substrFunction),
		NewFunction(Spec{Name: "humanize", Doc: "Prints sizes, times and numbers for people."}, humanizeFunction),
		NewFunction(Spec{Name: "commandline_split", Doc: "Splits a command line by Windows or shell rules."}, commandlineFunction),
	}
}

type formatArgs struct {
	Format string `vql:"format,required" doc:"A format with Go verbs."`
	Args   Value  `vql:"args" doc:"An array of values, or one value."`
}

func formatFunction(ctx context.Context, scope *Scope, args *formatArgs) (Value, error) {
	return scope.format(ctx, args.Format, args.Args)
}

func (s *Scope) format(ctx context.Context, format string, args Value) (string, error) {
	if args == nil {
		return sprintf(format, nil)
	}
	var list []any
	args = s.Real(ctx, args)
	if _, isBytes := args.([]byte); isBytes {
		list = []any{args}
	} else {
		list = argList(args)
	}
	for i, v := range list {
		list[i] = s.formatted(ctx, v)
	}
	return sprintf(format, list)
}

func sprintf(format string, args []any) (string, error) {
	if formatSize(format, sizeOfText(args)) > MaxText {
		return "", ErrTooLong
	}
	return fmt.Sprintf(format, args...), nil
}

// formatted wraps values that print differently from what Go makes of them.
func (s *Scope) formatted(ctx context.Context, v Value) any {
	v = s.Real(ctx, v)
	switch v.(type) {
	case nil, types.Null, *types.Null:
		return types.Null{}
	case time.Time, *time.Time, *Dict, []any, *Path:
		return formatted{raw: v, text: s.String(ctx, v)}
	}
	return v
}

// formatted prints its text for text verbs and its value for others.
type formatted struct {
	raw  any
	text string
}

// Format implements fmt.Formatter.
func (f formatted) Format(state fmt.State, verb rune) {
	v := f.raw
	if verb == 'v' || verb == 's' || verb == 'q' || verb == 'x' || verb == 'X' {
		v = f.text
		if verb == 'v' {
			verb = 's'
		}
	}
	flags := "%"
	for _, flag := range "-+# 0" {
		if state.Flag(int(flag)) && !(verb == 's' && (flag == '#' || flag == '+')) {
			flags += string(flag)
		}
	}
	if width, ok := state.Width(); ok {
		flags += fmt.Sprint(width)
	}
	if precision, ok := state.Precision(); ok {
		flags += fmt.Sprintf(".%d", precision)
	}
	_, _ = fmt.Fprintf(state, flags+string(verb), v) // the state is in memory
}

type splitArgs struct {
	String    string `vql:"string,required" doc:"What to split."`
	Sep       string `vql:"sep" doc:"A regex."`
	SepString string `vql:"sep_string" doc:"A literal separator."`
}

func splitFunction(_ context.Context, scope *Scope, args *splitArgs) (Value, error) {
	switch {
	case args.Sep != "":
		re, err := scope.compiled(args.Sep)
		if err != nil {
			return nil, err
		}
		return re.Split(args.String, -1), nil
	case args.SepString != "":
		return strings.Split(args.String, args.SepString), nil
	}
	return nil, errors.New("requires either sep or sep_string")
}

type textArgs struct {
	String string `vql:"string,required" doc:"The string."`
}

func lowcaseFunction(_ context.Context, _ *Scope, args *textArgs) (Value, error) {
	return strings.ToLower(args.String), nil
}

func upcaseFunction(_ context.Context, _ *Scope, args *textArgs) (Value, error) {
	return strings.ToUpper(args.String), nil
}

type stripArgs struct {
	String string `vql:"string,required" doc:"The string."`
	Prefix string `vql:"prefix" doc:"What to remove in front."`
	Suffix string `vql:"suffix" doc:"What to remove at the end."`
}

func stripFunction(_ context.Context, _ *Scope, args *stripArgs) (Value, error) {
	if args.Prefix == "" && args.Suffix == "" {
		return strings.TrimSpace(args.String), nil
	}
	return strings.TrimSuffix(strings.TrimPrefix(args.String, args.Prefix), args.Suffix), nil
}

type substrArgs struct {
	Str   string `vql:"str,required" doc:"The string."`
	Start int64  `vql:"start" doc:"First byte, from 0."`
	End   int64  `vql:"end" doc:"Byte after the last; 0 with a start is the end."`
}

func substrFunction(_ context.Context, _ *Scope, args *substrArgs) (Value, error) {
	length := int64(len(args.Str))
	if args.Start < 0 || args.End < 0 {
		return nil, errors.New("start and end may not be negative")
	}
	end := args.End
	if end == 0 || end > length {
		end = length
	}
	if args.Start >= end {
		return "", nil
	}
	return args.Str[args.Start:end], nil
}

type humanizeArgs struct {
	Bytes  *int64     `vql:"bytes" doc:"A size in MB."`
	IBytes *int64     `vql:"ibytes" doc:"A size in MiB."`
	Time   *time.Time `vql:"time" doc:"A time, as 2 hours ago."`
	Comma  *int64     `vql:"comma" doc:"A number with commas."`
}

func humanizeFunction(_ context.Context, _ *Scope, args *humanizeArgs) (Value, error) {
	switch {
	case args.Bytes != nil:
		return humanize.Bytes(uint64(max(0, *args.Bytes))), nil
	case args.IBytes != nil:
		return humanize.IBytes(uint64(max(0, *args.IBytes))), nil
	case args.Time != nil:
		return humanize.Time(*args.Time), nil
	case args.Comma != nil:
		return humanize.Comma(*args.Comma), nil
	}
	return nil, errors.New("one of bytes, ibytes, time or comma is needed")
}

type commandlineArgs struct {
	Command   string `vql:"command,required" doc:"The command line."`
	BashStyle bool   `vql:"bash_style" doc:"Use a POSIX shell's rules."`
}

func commandlineFunction(_ context.Context, _ *Scope, args *commandlineArgs) (Value, error) {
	if !args.BashStyle {
		return splitWindows(args.Command), nil
	}
	words, err := shlex.Split(args.Command)
	if err != nil {
		return nil, fmt.Errorf("split %q: %w", shorten(args.Command, 100), err)
	}
	return words, nil
}

// splitWindows splits as CommandLineToArgvW does (Microsoft's documentation of
// that function): 2n backslashes before a quote are n backslashes and the quote
// delimits; 2n+1 are n and a literal quote; a doubled quote inside quotes is one.
func splitWindows(line string) []string {
	out := []string{}
	for {
		line = strings.TrimLeft(line, " \t")
		if line == "" {
			return out
		}
		var word string
		word, line = windowsWord(line)
		out = append(out, word)
	}
}

func windowsWord(line string) (string, string) {
	var b strings.Builder
	quoted := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\':
			n := len(line[i:]) - len(strings.TrimLeft(line[i:], `\`))
			i += n - 1
			if i+1 >= len(line) || line[i+1] != '"' {
				b.WriteString(strings.Repeat(`\`, n))
				continue
			}
			b.WriteString(strings.Repeat(`\`, n/2))
			if n%2 == 1 {
				b.WriteByte('"')
				i++
			}
		case c == '"' && quoted && i+1 < len(line) && line[i+1] == '"':
			b.WriteByte('"')
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t'):
			return b.String(), line[i:]
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}
