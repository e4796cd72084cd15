package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"

	"raptorpack/vql"
)

// regexes are the compiled expressions of a session. An expression made of a row's
// values may come in any number, so that the table starts anew when it is full.
type regexes struct {
	mu       sync.Mutex
	compiled map[string]*regexp.Regexp
}

type regexesKey struct{}

const maxRegexes = 1000

// compileRegex compiles an expression as =~ does: letters match in either case.
func compileRegex(scope *vql.Scope, text string) (*regexp.Regexp, error) {
	cached, err := scope.Cache().Get(regexesKey{}, func() (any, error) {
		return &regexes{compiled: map[string]*regexp.Regexp{}}, nil
	})
	if err != nil {
		return nil, err
	}
	r := cached.(*regexes)
	r.mu.Lock()
	re := r.compiled[text]
	r.mu.Unlock()
	if re != nil {
		return re, nil
	}
	if re, err = regexp.Compile("(?i)" + text); err != nil {
		return nil, fmt.Errorf("compile %q: %w", text, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.compiled) >= maxRegexes {
		r.compiled = map[string]*regexp.Regexp{}
	}
	r.compiled[text] = re
	return re, nil
}

func compileRegexes(scope *vql.Scope, texts []string) ([]*regexp.Regexp, error) {
	var out []*regexp.Regexp
	for _, text := range texts {
		re, err := compileRegex(scope, text)
		if err != nil {
			return nil, err
		}
		out = append(out, re)
	}
	return out, nil
}

// groupNames gives each group a column: its name, or g and its number.
func groupNames(re *regexp.Regexp) []string {
	names := re.SubexpNames()[1:]
	out := make([]string, len(names))
	for i, name := range names {
		if out[i] = name; name == "" {
			out[i] = "g" + strconv.Itoa(i+1)
		}
	}
	return out
}

type parseStringArgs struct {
	String string   `vql:"string,required" doc:"The text to look into."`
	Regex  []string `vql:"regex,required" doc:"Expressions whose groups become members."`
}

var parseStringFunction = vql.NewFunction(vql.Spec{
	Name: "parse_string_with_regex",
	Doc:  "Gives the groups of each expression's first match as a dict; groups without a match are empty.",
}, func(_ context.Context, scope *vql.Scope, args *parseStringArgs) (vql.Value, error) {
	all, err := compileRegexes(scope, args.Regex)
	if err != nil {
		return nil, err
	}
	out := vql.NewDict()
	for _, re := range all {
		match := re.FindStringSubmatch(args.String)
		for i, name := range groupNames(re) {
			value := ""
			if match != nil {
				value = match[i+1]
			}
			if have, ok := out.Get(name); ok && value == "" && have != "" {
				continue // another expression or branch has found it
			}
			out.Set(name, value)
		}
	}
	return out, nil
})

type regexReplaceArgs struct {
	Source        string     `vql:"source,required" doc:"The text to change."`
	Replace       string     `vql:"replace" doc:"What to put in place of matches, with $1 for groups."`
	ReplaceLambda vql.Lambda `vql:"replace_lambda" doc:"A lambda on the matched text that gives what to put in its place."`
	Re            string     `vql:"re,required" doc:"The expression."`
}

var regexReplaceFunction = vql.NewFunction(vql.Spec{
	Name: "regex_replace", Doc: "Replaces the matches of an expression in a text.",
}, func(ctx context.Context, scope *vql.Scope, args *regexReplaceArgs) (vql.Value, error) {
	re, err := compileRegex(scope, args.Re)
	if err != nil {
		return nil, err
	}
	if !args.ReplaceLambda.Given() {
		return asValue(vql.ReplaceAll(re, args.Source, args.Replace))
	}
	return asValue(vql.ReplaceAllFunc(re, args.Source, func(match string) string {
		v := args.ReplaceLambda.Call(ctx, scope, match)
		if vql.IsNull(v) {
			return ""
		}
		return scope.String(ctx, v)
	}))
})

func asValue(text string, err error) (vql.Value, error) { return text, err }

type regexTransformArgs struct {
	Source string    `vql:"source,required" doc:"The text to change."`
	Map    *vql.Dict `vql:"map,required" doc:"Replacements by expression, applied in order."`
	Key    string    `vql:"key" doc:"Taken for compatibility: compiled expressions are always kept."`
}

var regexTransformFunction = vql.NewFunction(vql.Spec{
	Name: "regex_transform", Doc: "Applies several replacements to a text, one after the other.",
}, func(ctx context.Context, scope *vql.Scope, args *regexTransformArgs) (vql.Value, error) {
	text := args.Source
	for _, key := range args.Map.Keys() {
		re, err := compileRegex(scope, key)
		if err != nil {
			return nil, err
		}
		v, _ := args.Map.Get(key)
		if text, err = vql.ReplaceAll(re, text, scope.String(ctx, v)); err != nil {
			return nil, err
		}
	}
	return text, nil
})

type parseRecordsArgs struct {
	File       []*vql.Path `vql:"file,required" doc:"The files to look into."`
	Regex      []string    `vql:"regex,required" doc:"Expressions whose groups become columns."`
	Accessor   string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
	BufferSize int64       `vql:"buffer_size" doc:"Bytes in a block; a match may be as long (64 KiB)."`
}

const (
	defaultBlock = 64 << 10
	maxBlock     = 64 << 20
)

func blockSize(asked int64) int {
	if asked <= 0 {
		return defaultBlock
	}
	return int(min(max(asked, 256), maxBlock))
}

var parseRecordsPlugin = vql.NewPlugin(vql.Spec{
	Name: "parse_records_with_regex", Permission: "FILESYSTEM_READ",
	Doc:     "Gives a row for every match of every expression in files: one column for each group.",
	Columns: []string{"FullPath"},
}, func(ctx context.Context, scope *vql.Scope, args *parseRecordsArgs, emit vql.Emit) error {
	all, err := compileRegexes(scope, args.Regex)
	if err != nil {
		return err
	}
	emit = stopping(emit)
	return eachFile(ctx, scope, "parse_records_with_regex", args.Accessor, args.File, func(path *vql.Path, file vql.ReadSeekCloser) error {
		s := newBlockSearch(all, blockSize(args.BufferSize), func(names []string, buf []byte, match []int) error {
			row := vql.NewDict()
			row.Set("FullPath", shortPath(path))
			for i, name := range names {
				value := ""
				if from := match[2*i+2]; from >= 0 {
					value = string(buf[from:match[2*i+3]])
				}
				if have, ok := row.Get(name); ok && value == "" && have != "" {
					continue
				}
				row.Set(name, value)
			}
			return emit(row)
		})
		return s.run(ctx, scope, file)
	})
})

// shortPath is how a row names its file; a text that stands for a file is no name.
func shortPath(path *vql.Path) vql.Value {
	if path.Syntax() == vql.PathOpaque {
		return shortName(path.Path())
	}
	return path
}

// A blockSearch finds the matches of expressions in a stream, block by block, also
// those that reach over the end of a block.
type blockSearch struct {
	all   []*regexp.Regexp
	names [][]string
	block int
	found func(names []string, buf []byte, match []int) error

	buf  []byte
	done []int            // for each expression, where in buf its next match may begin
	next []*regexp.Regexp // see behind
}

func newBlockSearch(all []*regexp.Regexp, block int, found func([]string, []byte, []int) error) *blockSearch {
	s := &blockSearch{all: all, block: block, found: found, done: make([]int, len(all)), next: make([]*regexp.Regexp, len(all))}
	for _, re := range all {
		s.names = append(s.names, groupNames(re))
	}
	return s
}

func (s *blockSearch) run(ctx context.Context, scope *vql.Scope, r io.Reader) error {
	chunk := make([]byte, s.block)
	for {
		n, err := io.ReadFull(r, chunk)
		s.buf = append(s.buf, chunk[:n]...)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return err
		}
		if err := scope.Charge(ctx); err != nil {
			return emitError{err}
		}
		if err := s.search(end); err != nil || end {
			return err
		}
	}
}

// search emits what is certain: matches that end a block before the end of what we
// have, since later bytes might make them longer. The rest waits for more.
func (s *blockSearch) search(end bool) error {
	certain := len(s.buf) - s.block
	if end {
		certain = len(s.buf)
	}
	keep := len(s.buf)
	for i := range s.all {
		from, err := s.searchOne(i, certain, end || len(s.buf) > 8*s.block)
		if err != nil {
			return err
		}
		s.done[i] = from
		keep = min(keep, from)
	}
	keep = max(keep-utf8.UTFMax, 0) // what stands before a match decides about ^ and \b
	s.buf = append(s.buf[:0], s.buf[keep:]...)
	for i := range s.done {
		s.done[i] -= keep
	}
	return nil
}

// maxMatches is how many matches are looked for at a time.
const maxMatches = 1000

// searchOne emits the matches of an expression that are certain, or all, and
// returns where the next one may begin.
func (s *blockSearch) searchOne(i, certain int, all bool) (int, error) {
	at := s.done[i]
	for more := true; more; {
		var matches [][]int
		var err error
		if matches, more, err = s.after(i, at); err != nil {
			return 0, err
		}
		for _, match := range matches {
			if match[1] > certain && !all {
				return min(match[0], max(certain, at)), nil
			}
			at = match[1]
			if match[0] == match[1] {
				continue // an empty match says nothing
			}
			if err := s.found(s.names[i], s.buf, match); err != nil {
				return 0, err
			}
		}
		if len(matches) == 1 && matches[0][0] == matches[0][1] { // the same would come again
			_, width := utf8.DecodeRune(s.buf[at:])
			at += width
			more = more && width > 0
		}
	}
	if all {
		return len(s.buf), nil
	}
	return max(certain, at), nil
}

// after returns matches that begin at a place or later, and whether there may be
// more. The character before the place is looked at as well, but is no part of
// them.
func (s *blockSearch) after(i, at int) (matches [][]int, more bool, err error) {
	_, width := utf8.DecodeLastRune(s.buf[:at])
	text := s.buf[at-width:]
	if first := s.all[i].FindIndex(text); first == nil {
		return nil, false, nil
	} else if first[0] < width && first[1] > width {
		matches, more, err = s.behind(i, text)
	} else {
		matches = s.all[i].FindAllSubmatchIndex(text, maxMatches)
		more = len(matches) == maxMatches
		matches = slices.DeleteFunc(matches, func(m []int) bool { return m[0] < width })
	}
	for _, match := range matches {
		for j := range match {
			if match[j] >= 0 {
				match[j] += at - width
			}
		}
	}
	return matches, more, err
}

// behind returns the first match behind a text's first character where the first
// one of all begins with it and reaches further.
func (s *blockSearch) behind(i int, text []byte) ([][]int, bool, error) {
	if s.next[i] == nil {
		next, err := regexp.Compile(`\A(?s:..*?)(` + s.all[i].String() + `)`)
		if err != nil {
			return nil, false, err
		}
		s.next[i] = next
	}
	match := s.next[i].FindSubmatchIndex(text)
	if match == nil {
		return nil, false, nil
	}
	return [][]int{match[2:]}, true, nil
}
