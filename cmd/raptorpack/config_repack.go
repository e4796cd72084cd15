package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"raptorpack/config"
	"raptorpack/internal/archive"
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
			zipped, err := zipOf(binaries)
			if err != nil {
				return err
			}
			if program == "" {
				if program, err = os.Executable(); err != nil {
					return fmt.Errorf("find this program: %w", err)
				}
			}
			return repack(program, output, text, zipped)
		},
	}
	flags := c.Flags()
	flags.StringVar(&program, "exe", "", "the program to copy; left out: this one")
	flags.StringVar(&output, "output", "", "a file that must not exist yet")
	flags.StringArrayVar(&binaries, "binary", nil, "a further file to pack; may be repeated")
	return c
}

// zipOf packs files by their base names; without any it is empty.
func zipOf(names []string) ([]byte, error) {
	if len(names) == 0 {
		return nil, nil
	}
	var out bytes.Buffer
	z := archive.NewWriter(&out)
	taken := map[string]bool{}
	for _, name := range names {
		if base := filepath.Base(name); taken[base] {
			return nil, usage("--binary: two files are called %s", base)
		}
		taken[filepath.Base(name)] = true
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		_, err = z.Member(filepath.Base(name), time.Now(), func(w io.Writer) error { _, err := io.Copy(w, file); return err })
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
	}
	err := z.Close() // before the bytes are taken
	return out.Bytes(), err
}

func repack(program, output string, text, zipped []byte) error {
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
	err = errors.Join(config.Repack(to, from, info.Size(), text, zipped), to.Sync(), to.Close())
	if err != nil {
		return errors.Join(err, os.Remove(output))
	}
	return nil
}
