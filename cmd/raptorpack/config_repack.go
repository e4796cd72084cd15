package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"raptorpack/config"
)

func newConfigRepack(g *globals) *cobra.Command {
	var program, output string
	var binaries []string
	c := &cobra.Command{
		Use: "repack", Short: "Put a client file into a copy of this program, or of another", Args: cobra.NoArgs,
		Long: `Put a client file into a copy of this program, or of another build of it, so that its
command client needs no --config. What was packed into it before is replaced. Files of
--binary are packed as a zip, which the accessor zip opens in the program itself.

The file goes behind the program, with its SHA-256: a signature of the program does not
cover it, so sign afterwards. A file with private keys of a server is refused.`,
		Example: "  raptorpack config client --config server.yaml --output client.yaml\n" +
			"  raptorpack config repack --config client.yaml --exe raptorpack.exe --output agent.exe",
		RunE: func(c *cobra.Command, _ []string) error {
			if g.config == "" || output == "" {
				return usage("name the client file by --config, and --output")
			}
			text, err := os.ReadFile(g.config)
			if err != nil {
				return err
			}
			if program == "" {
				if program, err = os.Executable(); err != nil {
					return fmt.Errorf("find this program: %w", err)
				}
			}
			return repack(program, output, text, packed(binaries))
		},
	}
	flags := c.Flags()
	flags.StringVar(&program, "exe", "", "the program to copy; left out: this one")
	flags.StringVar(&output, "output", "", "a file that must not exist yet")
	flags.StringArrayVar(&binaries, "binary", nil, "a further file to pack; may be repeated")
	return c
}

// packed are further files by their base names.
func packed(names []string) []config.Packed {
	files := make([]config.Packed, 0, len(names))
	for _, name := range names {
		files = append(files, config.Packed{Name: filepath.Base(name), Open: func() (io.ReadCloser, error) { return os.Open(name) }})
	}
	return files
}

func repack(program, output string, text []byte, files []config.Packed) error {
	from, err := os.Open(program)
	if err != nil {
		return err
	}
	defer from.Close() // only read
	info, err := from.Stat()
	if err != nil {
		return err
	}
	to, err := os.OpenFile(output, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755) //nolint:gosec // a program
	if err != nil {
		return err
	}
	err = errors.Join(config.Repack(to, from, info.Size(), text, files), to.Sync(), to.Close())
	if err != nil {
		return errors.Join(err, os.Remove(output))
	}
	return nil
}
