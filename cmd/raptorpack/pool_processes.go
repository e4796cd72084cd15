package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/spf13/cobra"

	"raptorpack/pool"
)

// runPools is runPool in several processes of this program.
func runPools(c *cobra.Command, g *globals, f *poolFlags) (err error) {
	remove, err := f.ownIdentities()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	// Made once, here: the processes would each make their own.
	if _, err := pool.LoadIdentities(c.Context(), f.identities, f.first+f.clients); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start processes: %w", err)
	}
	var commands []*exec.Cmd
	for n := range f.processes {
		command := exec.Command(program, f.arguments(os.Args[1:], n)...)
		command.Stderr = c.ErrOrStderr()
		commands = append(commands, command)
	}
	return f.follow(c, g, pool.NewSplit(commands...))
}

// arguments are those of process n: ours, and then its part of the agents. Of a flag
// that comes twice the later one counts.
func (f *poolFlags) arguments(given []string, n int) []string {
	first, end := n*f.clients/f.processes, (n+1)*f.clients/f.processes
	return append(slices.Clone(given),
		fmt.Sprintf("--clients=%d", end-first), fmt.Sprintf("--first=%d", f.first+first), "--processes=1", "--identities="+f.identities,
		"--stats=-", fmt.Sprintf("--ramp=%g/s", float64(f.ramp)*float64(end-first)/float64(f.clients)), "--duration=0", "--quiet")
}
