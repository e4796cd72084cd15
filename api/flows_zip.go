package api

import (
	"context"
	"fmt"
	"io"
	"mime"

	"github.com/danielgtaylor/huma/v2"

	"raptorpack/collections"
	"raptorpack/container"
	"raptorpack/flows"
	"raptorpack/internal/archive"
	"raptorpack/users"
)

// FlowZips write flows as zips: *collections.Exporter.
type FlowZips interface {
	Zip(ctx context.Context, key flows.Key, w io.Writer, o collections.ExportOptions) (*container.Manifest, error)
}

// ZipIn are the wishes that all zips take.
type ZipIn struct {
	Format   string `query:"format" enum:"csv,json,csv_only" default:"csv" doc:"of rows: JSON lines and CSV, JSON lines alone, or CSV alone, which cannot be brought in again"`
	Bare     bool   `query:"bare" doc:"csv without the guard against formulas"`
	Expand   bool   `query:"expand" doc:"sparse uploads with their holes, up to 64 GiB each; such cannot be brought in again"`
	Password string `header:"X-Raptorpack-Password" maxLength:"256" doc:"the zip then has one member, data.zip, encrypted by AES-256"`
}

func (s *Server) zipFlow(ctx context.Context, in *struct {
	FlowIn
	ZipIn
},
) (*huma.StreamResponse, error) {
	who, err := s.may(ctx, users.PrepareResults)
	if err != nil {
		return nil, err
	}
	f, err := s.readFlow(ctx, in.FlowPath)
	if err != nil {
		return nil, err
	}
	s.Audit(ctx, who, "flow.export", in.Client, map[string]string{"flow": in.Flow, "format": in.Format})
	file := fmt.Sprintf("%s-%s.zip", f.Client, f.Flow)
	o := collections.ExportOptions{Format: in.Format, Bare: in.Bare, Expand: in.Expand}
	return s.streamZip(file, in.Password, func(w io.Writer) (string, error) {
		manifest, err := s.o.FlowZips.Zip(ctx, f.Key, w, o)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf(`{"whole":%t,"members":%d,"problems":%d}`, manifest.Whole, len(manifest.Members), len(manifest.Problems)), nil
	}), nil
}

// streamZip hands out a zip, sealed if there is a password.
func (s *Server) streamZip(file, password string, write func(io.Writer) (string, error)) *huma.StreamResponse {
	return s.handOut(file, "application/zip", func(w io.Writer) (report string, err error) {
		err = archive.Seal(w, password, func(w io.Writer) error {
			report, err = write(w)
			return err
		})
		return report, err
	})
}

// attachment is how a browser is told to keep a file and never to show it.
func attachment(file string) string {
	return mime.FormatMediaType("attachment", map[string]string{"filename": file})
}
