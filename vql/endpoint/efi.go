package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"raptorpack/vql"
)

type efiArgs struct {
	Namespace string `vql:"namespace" doc:"Only variables of this GUID."`
	Name      string `vql:"name" doc:"Only the variable of this name."`
	Value     bool   `vql:"value" doc:"Show values too."`
}

// efiFolder is where Linux shows the variables of the firmware (efivarfs).
const efiFolder = "/sys/firmware/efi/efivars"

var efiPlugin = vql.NewPlugin(vql.Spec{
	Name: "efivariables", Permission: "MACHINE_STATE", Platforms: []string{"linux"},
	Doc:     "Lists the variables of the EFI firmware.",
	Columns: []string{"Namespace", "Name", "Value"},
}, func(ctx context.Context, scope *vql.Scope, args *efiArgs, emit vql.Emit) error {
	return listEFI(ctx, scope, efiFolder, args, emit)
})

func listEFI(ctx context.Context, scope *vql.Scope, folder string, args *efiArgs, emit vql.Emit) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("this machine shows no EFI variables: %w", err)
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, guid, ok := splitEFI(e.Name())
		if !ok || args.Name != "" && args.Name != name || args.Namespace != "" && !strings.EqualFold(strings.Trim(args.Namespace, "{}"), guid) {
			continue
		}
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		row := vql.NewDict().Set("Namespace", guid).Set("Name", name).Set("Value", vql.NULL)
		if args.Value {
			value, err := readEFI(filepath.Join(folder, e.Name()))
			if err != nil {
				scope.Log(vql.LevelDefault, "efivariables: %s: %v", e.Name(), err)
			} else {
				row.Set("Value", string(value))
			}
		}
		if err := emit(row); err != nil {
			return err
		}
	}
	return nil
}

// splitEFI splits a file's name into the variable's name and its GUID.
func splitEFI(file string) (name, guid string, ok bool) {
	const guidLength = 36
	at := len(file) - guidLength
	if at < 1 || file[at-1] != '-' {
		return "", "", false
	}
	return file[:at-1], file[at:], true
}

// readEFI reads a variable; the first 4 bytes of its file are attributes.
func readEFI(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, 1<<20))
	if err != nil {
		return nil, err
	}
	if len(data) < 4 {
		return nil, io.ErrUnexpectedEOF
	}
	return data[4:], nil
}
