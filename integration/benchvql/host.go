package main

import (
	"context"
	"errors"
	"io"
	"strconv"

	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

// host is our query host with the primitives of the agent.
type host struct{ engine *vql.Engine }

func newHost() (*host, error) {
	engine, err := vql.NewEngine(endpoint.Functions(), append(endpoint.Plugins(), numbersPlugin))
	return &host{engine}, err
}

// run runs a program with N rows and counts its rows. Rows go to out as JSON
// lines when it is given.
func (h *host) run(ctx context.Context, text string, env *vql.Dict, out io.Writer) (rows int, err error) {
	var failed error
	scope := h.engine.NewScope(vql.SessionOptions{
		Env: env, Accessors: endpoint.Accessors(),
		Log: func(level, message string) {
			if level == vql.LevelError || level == vql.LevelWarn {
				failed = errors.New(message)
			}
		},
	})
	program, err := vql.Parse(text)
	if err != nil {
		scope.Close()
		return 0, err
	}
	var line []byte
	writer := scope.JSON()
	err = scope.RunProgram(ctx, program, func(row *vql.Dict) error {
		rows++
		if out == nil {
			return nil
		}
		line = writer.AppendLine(line[:0], row)
		_, err := out.Write(line)
		return err
	})
	scope.Close()
	return rows, errors.Join(err, failed)
}

type numbersArgs struct {
	End int64 `vql:"end,required"`
}

// groupsOf is how many distinct values the column G of numbers has, wordsOf the
// column W.
const (
	groupsOf = 10
	wordsOf  = 100_000
)

// numbersPlugin gives rows of a number, a group and a word, in no order.
var numbersPlugin = vql.NewPlugin(vql.Spec{Name: "numbers", Doc: "Rows to group and to sort."},
	func(_ context.Context, _ *vql.Scope, args *numbersArgs, emit vql.Emit) error {
		for i := range args.End {
			if err := emit(numbersRow(i)); err != nil {
				return err
			}
		}
		return nil
	})

func numbersRow(i int64) *vql.Dict {
	return vql.NewDict().Set("_value", i).Set("G", i%groupsOf).Set("W", word(i))
}

// word spreads numbers over words without an order.
func word(i int64) string { return "w" + strconv.FormatInt(i*7919%wordsOf, 10) }
