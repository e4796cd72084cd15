package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

var uploadColumns = []column{
	{"NUMBER", "number"},
	{"PATH", "source"},
	{"ACCESSOR", "accessor"},
	{"SIZE", "size"},
	{"STORED", "stored_size"},
	{"MODIFIED", "mtime"},
	{"SHA256", "sha256"},
}

func newUploads(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "uploads", Short: "List and fetch uploaded files", Aliases: []string{"upload"}}
	c.AddCommand(&cobra.Command{
		Use: "list CLIENT FLOW", Short: "List the files that a collection uploaded", Args: exactly(2, "CLIENT FLOW"),
		Example: "  raptorpack uploads list C.0123456789abcdef F.D1ABC",
		RunE: func(c *cobra.Command, args []string) error {
			return g.listed(c, flowPath(args[0], args[1])+"/uploads", nil, 0, uploadColumns...)
		},
	}, newUploadsGet(g))
	return c
}

// fetch is one download.
type fetch struct {
	output string
	expand bool
}

func newUploadsGet(g *globals) *cobra.Command {
	f := &fetch{}
	c := &cobra.Command{
		Use: "get CLIENT FLOW NUMBER", Short: "Fetch one uploaded file", Args: exactly(3, "CLIENT FLOW NUMBER"),
		Long:    "Fetch one uploaded file and check its hash. The bytes are an endpoint's own: treat them as hostile.",
		Example: "  raptorpack uploads get C.0123456789abcdef F.D1ABC 0 --output shadow.bin",
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := strconv.ParseInt(args[2], 10, 64); err != nil {
				return usage("NUMBER %q: expected the number that uploads list shows", args[2])
			}
			return g.withRemote(c, func(ctx context.Context, r *remote) error { return f.run(ctx, c, r, args) })
		},
	}
	c.Flags().StringVarP(&f.output, "output", "o", "", "a file that must not exist yet; left out or -: standard output")
	c.Flags().BoolVar(&f.expand, "expand", false, "give a sparse file its holes back, as zeros (the hash is of the stored bytes and is not checked then)")
	return c
}

func (f *fetch) run(ctx context.Context, c *cobra.Command, r *remote, args []string) error {
	if file, ok := c.OutOrStdout().(*os.File); ok && f.toStdout() && term.IsTerminal(int(file.Fd())) {
		return usage("foreign bytes do not go to a terminal: name a file with --output, or use a pipe")
	}
	path := flowPath(args[0], args[1]) + "/uploads"
	expected, err := r.hashOf(ctx, path, args[2])
	if err != nil {
		return err
	}
	response, err := r.send(ctx, call{
		method: http.MethodGet, path: path + escaped(args[2]) + "/content", query: url.Values{"expand": {strconv.FormatBool(f.expand)}},
	})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	sum := sha256.New()
	if err := f.save(c, io.TeeReader(response.Body, sum), func() error {
		if got := hex.EncodeToString(sum.Sum(nil)); !f.expand && got != expected {
			return fmt.Errorf("upload %s: hash is %s, expected %s: the transfer broke or the store is damaged", args[2], got, expected)
		}
		return nil
	}); err != nil {
		return err
	}
	r.note("sha256 %s", expected)
	return nil
}

func (f *fetch) toStdout() bool { return f.output == "" || f.output == "-" }

// save writes to standard output, or to a file that gets its name only when all
// of it is there and checked.
func (f *fetch) save(c *cobra.Command, from io.Reader, check func() error) error {
	if f.toStdout() {
		if _, err := io.Copy(c.OutOrStdout(), from); err != nil {
			return fmt.Errorf("fetch: %w", err)
		}
		return check()
	}
	if _, err := os.Lstat(f.output); err == nil {
		return usage("%s exists already", f.output)
	}
	file, err := os.CreateTemp(filepath.Dir(f.output), ".raptorpack-*")
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	_, err = io.Copy(file, from)
	if err = errors.Join(err, file.Close()); err == nil {
		err = check()
	}
	if err == nil {
		err = os.Link(file.Name(), f.output)
	}
	if err != nil {
		err = fmt.Errorf("fetch: %w", err)
	}
	return errors.Join(err, os.Remove(file.Name()))
}

// hashOf looks an upload up in the list of its collection.
func (r *remote) hashOf(ctx context.Context, path, number string) (string, error) {
	found := ""
	err := r.each(ctx, path, nil, 0, func(page *page) error {
		for _, item := range page.Items {
			var upload struct {
				Number int64  `json:"number"`
				SHA256 string `json:"sha256"`
			}
			if err := json.Unmarshal(item, &upload); err != nil {
				return fmt.Errorf("list of uploads: %w", err)
			}
			if strconv.FormatInt(upload.Number, 10) == number {
				found = upload.SHA256
			}
		}
		return nil
	})
	if err == nil && found == "" {
		err = &exitError{exitNotFound, fmt.Errorf("the collection has no finished upload %s", number)}
	}
	return found, err
}
