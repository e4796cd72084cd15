//go:build amd64 || arm64

package ebpf

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
)

// syscallProgram reports the picked system calls as they end. Then their result
// is known, and memory that they point to has just been read by the kernel
// itself, so that it is not swapped out.
func syscallProgram(b *builder, events []int) asm.Instructions {
	b.begin()
	b.load(asm.R0, regTask, b.kernel.compat, asm.Word)
	b.add(
		asm.And.Imm(asm.R0, compatBit),
		asm.JNE.Imm(asm.R0, 0, "foreign"),
		asm.LoadMem(regWalk, regContext, 0, asm.DWord), // struct pt_regs
	)
	b.load(asm.R0, regWalk, b.kernel.number, asm.Word)
	for _, event := range events {
		b.add(asm.JEq.Imm(asm.R0, int32(table[event].number), callLabel(event)))
	}
	b.add(asm.Ja.Label("out"))
	for _, event := range events {
		b.label = callLabel(event)
		b.call(event)
	}
	b.count("foreign", countForeign)
	return b.end()
}

func callLabel(event int) string { return fmt.Sprintf("call%d", event) }

func (b *builder) call(event int) {
	args := table[event].args
	b.reserve(int32(callBytes(args)))
	for i := range args {
		b.copyKernel(int32(offArgs+8*i), 8, regWalk, b.kernel.arguments[i])
	}
	b.add(
		asm.LoadMem(asm.R1, regContext, 8, asm.DWord),
		asm.StoreMem(regRecord, offResult, asm.R1, asm.DWord),
	)
	b.header(event)
	at := int32(offSlots)
	for i, a := range args {
		b.slot(a.kind, i, at)
		at += int32(slotBytes(a.kind))
	}
	b.submit()
}

// slot copies what the argument at index i points to.
func (b *builder) slot(kind argKind, i int, at int32) {
	argument := int16(offArgs + 8*i)
	switch kind {
	case argPath, argName:
		b.target(at, int32(slotBytes(kind)))
		b.add(asm.LoadMem(asm.R3, regRecord, argument, asm.DWord), asm.FnProbeReadUserStr.Call())
	case argOpenHow:
		b.target(at, openHowBytes)
		b.add(asm.LoadMem(asm.R3, regRecord, argument, asm.DWord), asm.FnProbeReadUser.Call())
	case argAddress:
		b.add(asm.LoadMem(asm.R2, regRecord, argument+8, asm.Word))
		b.address(argument, at)
	case argPeer: // the length is behind a pointer, and set by the kernel
		b.add(
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.RFP, stackWord, asm.R1, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.RFP),
			asm.Add.Imm(asm.R1, stackWord),
			asm.Mov.Imm(asm.R2, 4),
			asm.LoadMem(asm.R3, regRecord, argument+8, asm.DWord),
			asm.FnProbeReadUser.Call(),
			asm.LoadMem(asm.R2, asm.RFP, stackWord, asm.Word),
		)
		b.address(argument, at)
	}
}

// address copies a socket address of R2 bytes behind its length.
func (b *builder) address(argument int16, at int32) {
	fits := b.fresh()
	b.add(asm.JLE.Imm(asm.R2, sockaddrBytes, fits), asm.Mov.Imm(asm.R2, sockaddrBytes))
	b.label = fits
	b.add(
		asm.StoreMem(regRecord, int16(at), asm.R2, asm.Word),
		asm.Mov.Reg(asm.R1, regRecord),
		asm.Add.Imm(asm.R1, at+8),
		asm.LoadMem(asm.R3, regRecord, argument, asm.DWord),
		asm.FnProbeReadUser.Call(),
	)
	b.zeroUnlessRead(int16(at))
}

// callBytes is what a call's record measures.
func callBytes(args []arg) int {
	size := offSlots
	for _, a := range args {
		size += slotBytes(a.kind)
	}
	return size
}

func slotBytes(kind argKind) int {
	switch kind {
	case argPath:
		return pathBytes
	case argName:
		return nameBytes
	case argAddress, argPeer:
		return addressBytes
	case argOpenHow:
		return openHowBytes
	}
	return 0
}
