package endpoint

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gabriel-vasile/mimetype"
	"raptorpack/vql"
)

// magicHeader is how many bytes of a file tell its type: what mimetype looks at.
const magicHeader = 3072

// Errors of what only libmagic can do.
var (
	errNoMagicText  = errors.New("this build has no descriptions of file types: type should be mime or extension")
	errNoMagicRules = errors.New("this build takes no rules for file types")
)

type magicArgs struct {
	Path     *vql.Path `vql:"path,required" doc:"The file to look at."`
	Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
	Type     string    `vql:"type" doc:"What to give: mime or extension. Descriptions, which are meant when it is left out, are not in this build."`
	Magic    string    `vql:"magic" doc:"Further rules, which this build does not take."`
}

var magicFunction = vql.NewFunction(vql.Spec{
	Name: "magic", Permission: "FILESYSTEM_READ",
	Doc: "Tells the type of a file by its first bytes, as a MIME type or an extension without its dot.",
}, func(ctx context.Context, scope *vql.Scope, args *magicArgs) (vql.Value, error) {
	if args.Magic != "" {
		return nil, errNoMagicRules
	}
	switch args.Type {
	case "mime", "extension":
	case "":
		return nil, errNoMagicText
	default:
		return nil, fmt.Errorf("unknown type %q: %w", args.Type, errNoMagicText)
	}
	header, err := readAt(ctx, scope, args.Accessor, args.Path, 0, magicHeader)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", args.Path, err)
	}
	return magicOf(header, args.Type), nil
})

// magicOf names the type of what begins so. An empty file has no extension, and
// the MIME type that file(1) gives it.
func magicOf(header []byte, kind string) string {
	found := mimetype.Detect(header)
	switch {
	case kind == "extension" && len(header) == 0:
		return ""
	case kind == "extension":
		return strings.TrimPrefix(found.Extension(), ".")
	case len(header) == 0:
		return "inode/x-empty"
	}
	return found.String()
}
