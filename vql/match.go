package vql

import (
	"fmt"
	"regexp"

	"www.velocidex.com/golang/vfilter/types"
)

const (
	// maxPattern is the longest pattern of =~ that is not written in the query, in
	// bytes: a compiled one takes about a hundred times its text.
	maxPattern = 1 << 20
	// maxPatterns is how many bytes of such patterns a session keeps compiled.
	maxPatterns = 4 << 20
)

// dynamicPattern is the right side of =~ when it was worked out.
type dynamicPattern string

// boundPattern marks a text as such a pattern.
func boundPattern(v Value) Value {
	if text, ok := v.(string); ok {
		return dynamicPattern(text)
	}
	return v
}

// matchDynamic is =~ as the engine has it for literals: texts and arrays of texts
// are searched, and the patterns that match all match NULL too.
func matchDynamic(inner types.Scope, pattern dynamicPattern, v types.Any) bool {
	switch pattern {
	case ".", ".*", "":
		return true
	}
	scope := scopeOf(inner)
	if text, ok := v.(string); ok {
		re := scope.session.pattern(string(pattern))
		return re != nil && re.MatchString(text)
	}
	if list, ok := asSlice(v); ok {
		for i := range list.Len() {
			if inner.Match(pattern, list.Index(i).Interface()) {
				return true
			}
		}
		return false
	}
	text, ok := scope.matchable(v)
	if !ok {
		return false
	}
	re := scope.session.pattern(string(pattern))
	return re != nil && re.MatchString(text)
}

// pattern compiles a pattern; nil, after one log line, when it is none.
func (s *session) pattern(text string) *regexp.Regexp {
	s.mu.Lock()
	re, ok := s.patterns[text]
	s.mu.Unlock()
	if ok {
		return re
	}
	re, err := compilePattern(text)
	if err != nil {
		s.log.add(LevelDefault, fmt.Sprintf("Compile regexp: %v", err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.patternBytes += len(text) + 100; s.patternBytes > maxPatterns || s.patterns == nil {
		s.patterns, s.patternBytes = map[string]*regexp.Regexp{}, len(text)+100
	}
	s.patterns[text] = re
	return re
}

func compilePattern(text string) (*regexp.Regexp, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("the pattern is longer than %d bytes", maxPattern)
	}
	return regexp.Compile("(?i)" + text)
}
