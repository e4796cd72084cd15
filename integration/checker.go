package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"raptorpack/cmd/agent"
	"raptorpack/filestore"
	"raptorpack/ids"
)

// Check compares a store with what an agent was told and with what it must have
// produced. It reads the store by itself: the pack may be gone.
type Check struct {
	Store  string // folder of the filestore
	Client string
	Flow   string
	Result string // result name

	// Rows is how many numbered rows {"N":0} ... the artifact produced; negative:
	// it has not ended, so only what was acknowledged is looked for.
	Rows int64

	// Upload is the stored path of the upload below the store, and UploadSHA256
	// what its bytes must hash to; empty: no upload.
	Upload       string
	UploadSHA256 string

	// History is the agent's file of acknowledgements. The pack tells agents real
	// result names, so that they stand in it.
	History string
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Run returns everything that is wrong: rows lost, doubled or out of order,
// acknowledged and not there, uploads that differ.
func (c Check) Run(ctx context.Context) error {
	store, err := filestore.Open(c.Store, filestore.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer store.Close(context.WithoutCancel(ctx))
	reader, err := NewReader(ctx, store)
	if err != nil {
		return err
	}
	return c.RunOn(ctx, reader)
}

// NewReader reads results as far as the seals of dead incarnations let them count.
// Seals that are made later it does not know.
func NewReader(ctx context.Context, store *filestore.Store) (*filestore.Reader, error) {
	all, err := store.Incarnations(ctx)
	if err != nil {
		return nil, err
	}
	seals := map[string]*filestore.Seal{}
	for _, one := range all {
		if !one.Sealed {
			continue
		}
		if seals[one.Name], err = store.ReadSeal(ctx, one.Name); err != nil {
			return nil, err
		}
	}
	return filestore.NewReader(filestore.ReaderOptions{
		Store: store, Logger: slog.New(slog.DiscardHandler),
		Sealed: func(path string) (int64, bool) {
			seal := seals[filestore.SegmentIncarnation(path)]
			if seal == nil {
				return 0, false
			}
			length, named := seal.Lengths[path]
			return length, named
		},
	}), nil
}

// RunOn is Run with a reader of the store at hand. Only uploads need the folder.
func (c Check) RunOn(ctx context.Context, reader *filestore.Reader) error {
	client, err := ids.ParseClient(c.Client)
	if err != nil {
		return err
	}
	flow, err := ids.ParseFlow(c.Flow)
	if err != nil {
		return err
	}
	set := filestore.FlowResults(ids.RootOrg, client, flow, c.Result)
	acked, err := readHistory(c.History, c.Flow)
	if err != nil {
		return err
	}
	return errors.Join(c.checkRows(ctx, reader, set, acked), c.checkUpload(acked))
}

// checkRows exports the rows as the product would and looks at every one.
func (c Check) checkRows(ctx context.Context, reader *filestore.Reader, set filestore.Set, acked []agent.Acknowledged) error {
	var lines bytes.Buffer
	if _, err := reader.Export(ctx, set, filestore.RowsFilter{}, &lines); err != nil {
		return fmt.Errorf("export rows: %w", err)
	}
	var errs []error
	offsets := make([]int, 0, max(c.Rows, 0)+1) // where each row begins
	at := 0
	for n := int64(0); at < lines.Len(); n++ {
		line := lines.Bytes()[at:]
		end := bytes.IndexByte(line, '\n')
		if end < 0 {
			end = len(line) - 1
		}
		var row struct{ N int64 }
		if err := json.Unmarshal(line[:end+1], &row); err != nil {
			return fmt.Errorf("row %d: %w", n, err)
		}
		if row.N != n && len(errs) < 10 {
			errs = append(errs, fmt.Errorf("row %d holds number %d: rows are lost, doubled or out of order", n, row.N))
		}
		offsets = append(offsets, at)
		at += end + 1
	}
	if got := int64(len(offsets)); c.Rows >= 0 && got != c.Rows {
		errs = append(errs, fmt.Errorf("%d rows, produced were %d", got, c.Rows))
	}
	offsets = append(offsets, at)
	named := 0
	for _, a := range acked {
		if a.Kind != "rows" || a.Name != c.Result {
			continue
		}
		named++
		if a.First+a.Count >= int64(len(offsets)) {
			errs = append(errs, fmt.Errorf("rows %d to %d were acknowledged and are not there", a.First, a.First+a.Count))
			continue
		}
		stored := lines.Bytes()[offsets[a.First]:offsets[a.First+a.Count]]
		if crc32.Checksum(stored, castagnoli) != a.CRC {
			errs = append(errs, fmt.Errorf("rows %d to %d were acknowledged with other bytes", a.First, a.First+a.Count))
		}
	}
	if named == 0 {
		errs = append(errs, errors.New("the history speaks of no row: nothing was checked against it"))
	}
	return errors.Join(errs...)
}

// checkUpload hashes the stored file and looks for each acknowledged piece.
func (c Check) checkUpload(acked []agent.Acknowledged) error {
	if c.Upload == "" {
		return nil
	}
	file, err := os.Open(filepath.Join(c.Store, filepath.FromSlash(c.Upload)))
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	var errs []error
	if got := hex.EncodeToString(hash.Sum(nil)); got != c.UploadSHA256 {
		errs = append(errs, fmt.Errorf("upload hashes to %s, the original to %s", got, c.UploadSHA256))
	}
	for _, a := range acked {
		if a.Kind != "upload" || a.Count == 0 {
			continue
		}
		piece := make([]byte, a.Count)
		if _, err := file.ReadAt(piece, a.First); err != nil {
			errs = append(errs, fmt.Errorf("bytes %d+%d of the upload were acknowledged: %w", a.First, a.Count, err))
			continue
		}
		if crc32.Checksum(piece, castagnoli) != a.CRC {
			errs = append(errs, fmt.Errorf("bytes %d+%d of the upload were acknowledged with other content", a.First, a.Count))
		}
	}
	return errors.Join(errs...)
}

// readHistory reads what an agent was told of one flow. The last line of a killed
// agent may be cut off: it was not told to the end.
func readHistory(path, flow string) ([]agent.Acknowledged, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	defer file.Close()
	var out []agent.Acknowledged
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
		var a agent.Acknowledged
		if err := json.Unmarshal(line, &a); err != nil {
			continue // two lines of a killed agent run together
		}
		if a.Flow == flow {
			out = append(out, a)
		}
	}
}
