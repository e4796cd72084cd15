package endpoint

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"runtime/pprof"

	"raptorpack/vql"
)

var traceFunction = vql.NewFunction(vql.Spec{
	Name: "trace", Permission: "MACHINE_STATE",
	Doc: "Uploads trace.zip: goroutines, memory, figures and build of this process. Gives the record of the upload.",
}, func(ctx context.Context, scope *vql.Scope, _ *struct{}) (vql.Value, error) {
	uploader, ok := vql.Service[vql.Uploader](scope)
	if !ok {
		return nil, errNoUploader
	}
	if err := scope.Charge(ctx); err != nil {
		return nil, err
	}
	file, err := newTempFile(scope, ".zip", false)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := writeTrace(file); err != nil {
		return nil, fmt.Errorf("write diagnostics: %w", err)
	}
	size, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	result, err := uploader.Upload(ctx, scope, vql.UploadRequest{
		Path: vql.NewPath(vql.PathLinux, "trace.zip"), Accessor: "data", Reader: file, Size: size,
	})
	if err != nil {
		return nil, fmt.Errorf("upload diagnostics: %w", err)
	}
	return result, nil
})

// writeTrace writes the zip.
func writeTrace(w io.Writer) error {
	out := zip.NewWriter(w)
	var errs []error
	add := func(name string, write func(io.Writer) error) {
		member, err := out.Create(name)
		if err == nil {
			err = write(member)
		}
		errs = append(errs, err)
	}
	add("goroutines.txt", func(w io.Writer) error { return pprof.Lookup("goroutine").WriteTo(w, 2) })
	for _, kind := range []string{"goroutine", "heap", "allocs", "block", "mutex"} {
		add(kind+".pprof", func(w io.Writer) error { return pprof.Lookup(kind).WriteTo(w, 0) })
	}
	add("metrics.txt", func(w io.Writer) error {
		writeMetrics(w)
		return nil
	})
	add("build.txt", func(w io.Writer) error {
		if info, ok := debug.ReadBuildInfo(); ok {
			_, err := io.WriteString(w, info.String())
			return err
		}
		return nil
	})
	return errors.Join(append(errs, out.Close())...)
}
