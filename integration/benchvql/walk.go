package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"raptorpack/vql"
)

// filesInFolder is how many files a folder of the measured tree holds.
const filesInFolder = 100

// walkTree measures glob over a tree of empty files against find(1).
func walkTree(ctx context.Context, o options, h *host) (err error) {
	top, err := os.MkdirTemp(o.folder, "benchvql-tree-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(top)) }()
	if err := growTree(ctx, top, o.files); err != nil {
		return err
	}
	env := vql.NewDict().Set("Top", top)
	query := func(text string) func() (int, error) {
		return func() (int, error) { return h.run(ctx, text, env, io.Discard) }
	}
	rows := "SELECT OSPath, Size, Mtime, Mode FROM glob(globs='/**', root=Top)"
	walker := "SELECT OSPath FROM glob(globs='/**/*.nomatch', root=Top)"
	fmt.Printf("\nglob over %d files, %d in a folder, against find\n", o.files, filesInFolder)
	if err := o.compare(query(walker), tool("find", top, "-name", "*.nomatch"), "walk without a match", o.files, 1.5); err != nil {
		return err
	}
	if err := o.compare(query(rows), tool("find", top, "-printf", "%p %s %T@ %M\\n"), "a row of four columns for each file", o.files, 0); err != nil {
		return err
	}
	engine := func() (cost, error) {
		return costOf(func() (int, error) {
			return runBare(ctx, "SELECT W AS A, G AS B, _value AS C, 1.5 AS D FROM numbers(end=N)", o.files, io.Discard)
		})
	}
	return o.compare(query(rows), engine, "the same against the bare engine's rows of four columns, written too", o.files, 1)
}

func growTree(ctx context.Context, top string, files int) error {
	for made := 0; made < files; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := made / filesInFolder
		folder := filepath.Join(top, strconv.Itoa(n/filesInFolder), strconv.Itoa(n%filesInFolder))
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		for i := 0; i < filesInFolder && made < files; i++ {
			made++
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("file-%03d.txt", i)), nil, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// hashFile measures hash against sha256sum(1) over a file without holes or
// repetition; the page cache holds of it what fits, for both alike.
func hashFile(ctx context.Context, o options, h *host) (err error) {
	path := filepath.Join(o.folder, fmt.Sprintf("benchvql-hash-%d", os.Getpid()))
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	size := int64(o.hash * 1e9)
	if err := fillFile(ctx, path, size); err != nil {
		return err
	}
	env := vql.NewDict().Set("File", path).Set("MaxBytes", size+1)
	hash := func() (int, error) {
		return h.run(ctx, "SELECT hash(path=File, hashselect='SHA256', max_size=MaxBytes) AS Hash FROM scope()", env, io.Discard)
	}
	fmt.Printf("\nhash of a file of %.3g GB, against sha256sum\n", o.hash)
	o.runs = min(o.runs, 3)
	return o.compare(hash, tool("sha256sum", path), "SHA-256, ns a kB", int(size/1000), 1.2)
}

// fillFile writes blocks that differ, and leaves room on the disk.
func fillFile(ctx context.Context, path string, size int64) error {
	const keepFree = 20e9
	var disk syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(path), &disk); err != nil {
		return err
	}
	if free := int64(disk.Bavail) * disk.Bsize; free-size < keepFree {
		return fmt.Errorf("%d bytes are free, a file of %d would leave too little", free, size)
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * i >> 7)
	}
	for n := int64(0); n < size && err == nil; n += int64(len(block)) {
		copy(block, strconv.FormatInt(n, 10))
		_, err = file.Write(block[:min(int64(len(block)), size-n)])
		err = errors.Join(err, ctx.Err())
	}
	return errors.Join(err, file.Close())
}

// tool runs a command and gives the processor time of it.
func tool(name string, args ...string) func() (cost, error) {
	return func() (cost, error) {
		command := exec.Command(name, args...)
		command.Stdout = io.Discard
		begun := time.Now()
		err := command.Run()
		c := cost{wall: time.Since(begun)}
		if state := command.ProcessState; state != nil {
			c.cpu = state.UserTime() + state.SystemTime()
		}
		return c, err
	}
}

// compare runs a query and a tool in turn and prints the medians. What they read
// was just written, so the system's caches hold it for both.
func (o options) compare(query func() (int, error), tool func() (cost, error), what string, n int, aim float64) error {
	var ours, theirs []cost
	for range o.runs {
		c, err := profiled(o.profile, func() (cost, error) { return costOf(query) })
		if err != nil {
			return err
		}
		ours = append(ours, c)
		if c, err = tool(); err != nil {
			return err
		}
		theirs = append(theirs, c)
	}
	a, b := median(ours), median(theirs)
	cpu, wall := float64(a.cpu)/float64(b.cpu), float64(a.wall)/float64(b.wall)
	verdict := "no aim"
	switch {
	case aim > 0 && max(cpu, wall) > aim:
		verdict = fmt.Sprintf("MISSED, aim %.2f", aim)
	case aim > 0:
		verdict = fmt.Sprintf("ok, aim %.2f", aim)
	}
	per := func(d time.Duration) float64 { return float64(d) / float64(max(1, n)) }
	fmt.Printf("%s: host %.0f ns CPU %.0f ns wall, tool %.0f ns CPU %.0f ns wall, ratio %.2f CPU %.2f wall (%s), load average %s\n",
		what, per(a.cpu), per(a.wall), per(b.cpu), per(b.wall), cpu, wall, verdict, loadAverage())
	return nil
}
