package collector

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"strings"

	"raptorpack/container"
	"raptorpack/internal/jsonrow"
)

// tables makes a CSV file of each result, unless JSON lines alone are wanted.
func (b *Bundle) tables() error {
	if b.o.Format == container.FormatJSON {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, m := range append([]container.Member(nil), b.members...) {
		if m.Kind == container.KindRows {
			errs = append(errs, b.table(m))
		}
	}
	return errors.Join(errs...)
}

// table goes over the rows twice, so that no column is left out.
func (b *Bundle) table(rows container.Member) error {
	from, columns := b.files[rows.Path], jsonrow.NewColumns(nil)
	if err := eachLine(from, func(line []byte) error { columns.Learn(line); return nil }); err != nil {
		return err
	}
	to, err := b.grow(container.Member{Path: strings.TrimSuffix(rows.Path, ".jsonl") + ".csv", Kind: container.KindTable, Result: rows.Result})
	if err != nil {
		return err
	}
	out, csv := bufio.NewWriter(to), jsonrow.NewCSV(columns, false)
	err = eachLine(from, func(line []byte) error {
		csv.Row(line)
		_, err := out.Write(csv.Out)
		csv.Out = csv.Out[:0]
		return err
	})
	if err == nil {
		_, err = out.Write(csv.Out) // of a table without rows
	}
	return errors.Join(err, out.Flush())
}

func eachLine(file *os.File, take func([]byte) error) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	reader := bufio.NewReaderSize(file, 1<<20)
	for {
		line, err := reader.ReadBytes('\n')
		if len(line) > 0 {
			if err := take(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
