package vql

import "slices"

// CoreFunctions returns the functions that every engine has.
func CoreFunctions() []*Function {
	return slices.Concat(
		containerFunctions(), convertFunctions(), textFunctions(), codecFunctions(), timeFunctions(),
		controlFunctions(), aggregateFunctions(), storeFunctions(), webFunctions(),
	)
}

// CorePlugins returns the plugins that every engine has.
func CorePlugins() []*Plugin {
	return slices.Concat(rowPlugins(), combinePlugins(), eventPlugins(), windowPlugins(), queryPlugins(), helpPlugins())
}

// none is the arguments of a primitive that takes none.
type none struct{}
