package hunts

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"raptorpack/internal/archive"
)

// ErrBadArchive means that a file is no zip of a hunt, or that it is not as its
// manifest says. Trying again does not help.
var ErrBadArchive = errors.New("not a sound zip of a hunt")

const (
	maxManifest = 1 << 30
	maxFindings = 1000
)

// Verified is what a zip of a hunt holds.
type Verified struct {
	Manifest *Manifest
	Findings []ZipProblem // where the zip is not as its manifest says, the first 1,000; none: it is sound
	Members  int          // that were checked
	Bytes    int64        // of those, inflated
}

// Verify checks a zip against its manifest: that it has each member once and nothing
// else, with the size and SHA-256 that stand there, under a safe path. It reads
// everything once. The error wraps ErrBadArchive if there is no manifest to hold it
// to; problems that the manifest itself tells are no findings.
func Verify(ctx context.Context, r io.ReaderAt, size int64) (*Verified, error) {
	a, err := openArchive(r, size)
	if err != nil {
		return nil, fmt.Errorf("verify zip: %w", err)
	}
	v := &Verified{Manifest: a.manifest, Findings: a.strange()}
	for i := range a.manifest.Members {
		m := &a.manifest.Members[i]
		n, err := a.check(ctx, m)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("verify zip: %w", context.Cause(ctx))
		}
		v.Members, v.Bytes = v.Members+1, v.Bytes+n
		if err != nil && len(v.Findings) < maxFindings {
			v.Findings = append(v.Findings, ZipProblem{Path: m.Path, Problem: err.Error()})
		}
	}
	return v, nil
}

// opened is an open zip of a hunt.
type opened struct {
	zip      *zip.Reader
	files    map[string]*zip.File
	manifest *Manifest
}

func openArchive(r io.ReaderAt, size int64) (*opened, error) {
	z, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // paths are looked at below
		return nil, fmt.Errorf("%w: %w", ErrBadArchive, err)
	}
	a := &opened{zip: z, files: make(map[string]*zip.File, len(z.File)), manifest: new(Manifest)}
	for _, f := range z.File {
		a.files[f.Name] = f
	}
	data, err := a.read(manifestName, maxManifest)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, a.manifest); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", manifestName, ErrBadArchive, err)
	}
	if a.manifest.Version != zipVersion {
		return nil, fmt.Errorf("version %d is not known: %w", a.manifest.Version, ErrBadArchive)
	}
	return a, nil
}

// read reads a small member.
func (a *opened) read(name string, limit int64) ([]byte, error) {
	in, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(in, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, ErrBadArchive, err)
	}
	return out.Bytes(), nil
}

func (a *opened) open(name string) (io.ReadCloser, error) {
	f := a.files[name]
	if f == nil {
		return nil, fmt.Errorf("%.200s is missing: %w", name, ErrBadArchive)
	}
	in, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("%.200s: %w: %w", name, ErrBadArchive, err)
	}
	return in, nil
}

// strange lists what the zip has and the manifest does not, and names that would
// leave a folder.
func (a *opened) strange() (out []ZipProblem) {
	listed := make(map[string]int, len(a.manifest.Members)+1)
	listed[manifestName]++
	for _, m := range a.manifest.Members {
		listed[m.Path]++
	}
	for _, f := range a.zip.File {
		problem := ""
		switch listed[f.Name]--; {
		case !archive.SafePath(f.Name):
			problem = "path is not safe"
		case listed[f.Name] < 0:
			problem = "the manifest does not list it, or not so often"
		}
		if problem != "" && len(out) < maxFindings {
			out = append(out, ZipProblem{Path: f.Name, Problem: problem})
		}
	}
	return out
}

// check holds a member to the manifest, and returns how many bytes it has.
func (a *opened) check(ctx context.Context, m *ZipMember) (int64, error) {
	in, err := a.open(m.Path)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(archive.WithContext(ctx, in), m.Size+1))
	switch {
	case err != nil:
		return n, fmt.Errorf("after %d bytes: %w", n, err)
	case n > m.Size:
		return n, fmt.Errorf("has more than %d bytes", m.Size)
	case n < m.Size:
		return n, fmt.Errorf("has %d of %d bytes", n, m.Size)
	case hex.EncodeToString(sum.Sum(nil)) != m.SHA256:
		return n, errors.New("SHA-256 differs")
	}
	return n, nil
}
