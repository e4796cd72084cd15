package yara

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"hash"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// call is what one call into an instance reads and writes. It lives in the call's
// context, which is how wazero hands it to the functions below.
type call struct {
	ctx     context.Context // of the call, for whose time it lives
	issues  []Issue
	output  []byte // compiled rules going out
	input   []byte // compiled rules going in
	cut     bool   // input ended within something
	scan    *scan
	digests []hash.Hash // running ones by number; nil is free
}

type callKey struct{}

func withCall(ctx context.Context, c *call) context.Context {
	c.ctx = ctx
	return context.WithValue(ctx, callKey{}, c)
}

// The functions of the module "host". Their types are those of scripts/yara/shim.c.
const (
	i32 = api.ValueTypeI32
	i64 = api.ValueTypeI64
)

type hostFunction struct {
	name    string
	params  []api.ValueType
	results []api.ValueType
	// run takes its arguments from stack and leaves its result there.
	run func(c *call, memory api.Memory, stack []uint64)
}

var hostFunctions = []hostFunction{
	{"check", nil, nil, func(c *call, _ api.Memory, _ []uint64) {
		if err := c.ctx.Err(); err != nil {
			panic(err) // which ends the call
		}
	}},
	{"diagnostic", types(i32, i32, i32, i32), nil, func(c *call, memory api.Memory, s []uint64) {
		c.issue(Issue{Warning: isTrue(s[0]), Line: int(int32(s[1])), Message: text(memory, s[2], s[3])})
	}},
	{"output", types(i32, i32), types(i32), func(c *call, memory api.Memory, s []uint64) {
		c.output = append(c.output, view(memory, s[0], s[1])...)
		s[0] = 1
	}},
	{"input", types(i32, i32), types(i32), func(c *call, memory api.Memory, s []uint64) {
		n := copy(view(memory, s[0], s[1]), c.input)
		c.cut = c.cut || n > 0 && n < int(uint32(s[1]))
		c.input = c.input[n:]
		s[0] = uint64(n)
	}},
	{"block", types(i32, i32, i32), types(i32), func(c *call, memory api.Memory, s []uint64) {
		b, ok := c.scan.advance(isTrue(s[0]))
		memory.WriteUint64Le(uint32(s[1]), uint64(b.Base))
		memory.WriteUint32Le(uint32(s[2]), uint32(b.Size))
		s[0] = truth(ok)
	}},
	{"read", types(i32, i32), types(i32), func(c *call, memory api.Memory, s []uint64) {
		s[0] = uint64(c.scan.read(memory, uint32(s[0]), uint32(s[1])))
	}},
	{"rule", types(i32, i32, i32, i32), nil, func(c *call, memory api.Memory, s []uint64) {
		c.scan.match = &Match{Rule: text(memory, s[0], s[1]), Namespace: text(memory, s[2], s[3])}
	}},
	{"tag", types(i32, i32), nil, func(c *call, memory api.Memory, s []uint64) {
		c.scan.match.Tags = append(c.scan.match.Tags, text(memory, s[0], s[1]))
	}},
	{"meta_int", types(i32, i32, i32, i64), nil, func(c *call, memory api.Memory, s []uint64) {
		value := any(int64(s[3]))
		if isTrue(s[2]) {
			value = s[3] != 0
		}
		c.scan.match.Meta = append(c.scan.match.Meta, Meta{text(memory, s[0], s[1]), value})
	}},
	{"meta_string", types(i32, i32, i32, i32), nil, func(c *call, memory api.Memory, s []uint64) {
		c.scan.match.Meta = append(c.scan.match.Meta, Meta{text(memory, s[0], s[1]), text(memory, s[2], s[3])})
	}},
	{"hit", types(i32, i32, i64, i32), types(i32), func(c *call, memory api.Memory, s []uint64) {
		s[0] = truth(c.scan.hit(memory, text(memory, s[0], s[1]), int64(s[2]), int(uint32(s[3]))))
	}},
	{"rule_end", nil, types(i32), func(c *call, _ api.Memory, s []uint64) {
		s[0] = truth(c.scan.ruleEnd())
	}},
	{"crowded", types(i32, i32, i32, i32), nil, func(c *call, memory api.Memory, s []uint64) {
		c.scan.note("rule %s: %s is found too often: the hits from number %d on are left out",
			text(memory, s[0], s[1]), text(memory, s[2], s[3]), maxStringMatches+1)
	}},
	{"console", types(i32, i32), nil, func(c *call, memory api.Memory, s []uint64) {
		c.scan.note("%s", text(memory, s[0], s[1]))
	}},
	{"digest_begin", types(i32), types(i32), func(c *call, _ api.Memory, s []uint64) {
		s[0] = uint64(c.digestBegin(uint32(s[0])))
	}},
	{"digest_add", types(i32, i32, i32), nil, func(c *call, memory api.Memory, s []uint64) {
		c.digests[uint32(s[0])].Write(view(memory, s[1], s[2]))
	}},
	{"digest_end", types(i32, i32), nil, func(c *call, memory api.Memory, s []uint64) {
		memory.Write(uint32(s[1]), c.digests[uint32(s[0])].Sum(nil))
		c.digests[uint32(s[0])] = nil
	}},
}

func types(t ...api.ValueType) []api.ValueType { return t }

// exportHost offers the functions to modules of the runtime.
func exportHost(ctx context.Context, r wazero.Runtime) error {
	builder := r.NewHostModuleBuilder("host")
	for _, f := range hostFunctions {
		builder.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(
			func(ctx context.Context, m api.Module, stack []uint64) {
				f.run(ctx.Value(callKey{}).(*call), m.Memory(), stack)
			}), f.params, f.results).Export(f.name)
	}
	_, err := builder.Instantiate(ctx)
	return err
}

// view is a part of the instance's memory itself. An address that does not lie in
// it panics, which wazero turns into an error of the call.
func view(memory api.Memory, address, length uint64) []byte {
	data, ok := memory.Read(uint32(address), uint32(length))
	if !ok {
		panic("address outside of memory")
	}
	return data
}

func text(memory api.Memory, address, length uint64) string {
	return string(view(memory, address, length))
}

// isTrue reads a C int: the upper half of an argument is undefined.
func isTrue(v uint64) bool { return uint32(v) != 0 }

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// maxIssues bounds what one compilation reports.
const maxIssues = 1000

func (c *call) issue(i Issue) {
	if len(c.issues) < maxIssues {
		c.issues = append(c.issues, i)
	}
}

// maxDigests bounds the digests that run at once; libyara has one or two.
const maxDigests = 64

func (c *call) digestBegin(size uint32) int {
	var h hash.Hash
	switch size {
	case md5.Size:
		h = md5.New()
	case sha1.Size:
		h = sha1.New()
	default:
		h = sha256.New()
	}
	for i, running := range c.digests {
		if running == nil {
			c.digests[i] = h
			return i
		}
	}
	if len(c.digests) == maxDigests {
		panic("too many digests at once")
	}
	c.digests = append(c.digests, h)
	return len(c.digests) - 1
}
