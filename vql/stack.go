package vql

import "www.velocidex.com/golang/vfilter/types"

// The engine evaluates by recursion on Go's stack and bounds only the depth of its
// scopes, at 1000. A definition that calls itself inside an expression nested N
// deep takes N frames for each scope, about 6 KiB for each level of brackets, and
// Go ends the process when a stack passes 512 MB. So the deeper the statements of
// a session nest, the fewer scopes they may have: all 1000 up to 24 levels.
const (
	engineDepth = 1000
	stackLevels = 24 * engineDepth
)

// depther is what the engine's scope offers beside its interface.
type depther interface {
	GetDepth() int
	IncDepth()
}

// nest takes note of how deep a statement nests before it runs.
func (s *session) nest(n int) {
	for {
		old := s.nesting.Load()
		if int64(n) <= old || s.nesting.CompareAndSwap(old, int64(n)) {
			return
		}
	}
}

// boundDepth lets a scope begin as deep as the session's statements require.
func (s *session) boundDepth(inner types.Scope) {
	d, ok := inner.(depther)
	if !ok {
		return
	}
	allowed := stackLevels / max(1, int(s.nesting.Load()))
	for d.GetDepth() < engineDepth-allowed {
		d.IncDepth()
	}
}
