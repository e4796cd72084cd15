package endpoint

import (
	"context"
	"os"
	"regexp"

	"raptorpack/vql"
)

var sysinfoFunction = vql.NewFunction(vql.Spec{
	Name: "sysinfo", Permission: "MACHINE_STATE", Platforms: []string{"linux"},
	Doc: "Gives the sizes of memory and swap in bytes.",
}, func(context.Context, *vql.Scope, *struct{}) (vql.Value, error) { return systemMemory() })

type expandArgs struct {
	Path string `vql:"path,required" doc:"The text to expand."`
}

var variable = regexp.MustCompile(`\$\{(\w+)\}|\$(\w+)|%([\w()]+)%`)

var expandFunction = vql.NewFunction(vql.Spec{
	Name: "expand", Permission: "MACHINE_STATE",
	Doc: "Puts environment variables into a text: $VAR, ${VAR} and %VAR%. Unknown ones stay as they are.",
}, func(_ context.Context, scope *vql.Scope, args *expandArgs) (vql.Value, error) {
	remapped := remappingOf(scope)
	return variable.ReplaceAllStringFunc(args.Path, func(match string) string {
		groups := variable.FindStringSubmatch(match)
		for _, name := range groups[1:] {
			if name == "" {
				continue
			}
			if value, ok := remapped.lookupEnv(name); ok {
				return value
			}
		}
		return match
	}), nil
})

type environArgs struct {
	Vars []string `vql:"vars" doc:"The variables to show (all)."`
}

var environPlugin = vql.NewPlugin(vql.Spec{
	Name: "environ", Permission: "MACHINE_STATE", Doc: "Gives our environment in one row.",
}, func(_ context.Context, _ *vql.Scope, args *environArgs, emit vql.Emit) error {
	row := vql.NewDict()
	for _, name := range environNames(args.Vars) {
		row.Set(name, os.Getenv(name))
	}
	return emit(row)
})

func environNames(asked []string) []string {
	if len(asked) > 0 {
		return asked
	}
	var names []string
	for _, pair := range os.Environ() {
		for i := 1; i < len(pair); i++ { // Windows has names that begin with =
			if pair[i] == '=' {
				names = append(names, pair[:i])
				break
			}
		}
	}
	return names
}

type environVarArgs struct {
	Var string `vql:"var,required" doc:"The variable."`
}

var environFunction = vql.NewFunction(vql.Spec{
	Name: "environ", Permission: "MACHINE_STATE", Doc: "Gives one variable of our environment.",
}, func(_ context.Context, _ *vql.Scope, args *environVarArgs) (vql.Value, error) {
	if v, ok := os.LookupEnv(args.Var); ok {
		return v, nil
	}
	return nil, nil
})
