//go:build amd64 || arm64

package ebpf

import "github.com/cilium/ebpf/asm"

// execProgram reports a process that has begun another program. Its arguments are
// read from the new memory, just after the kernel has put them there.
func execProgram(b *builder, event int, env bool) asm.Instructions {
	b.begin()
	b.load(regWalk, regTask, b.kernel.mm, asm.DWord)
	b.load(asm.R0, regWalk, b.kernel.argStart, asm.DWord)
	b.add(asm.StoreMem(asm.RFP, -16, asm.R0, asm.DWord))
	b.load(asm.R0, regWalk, b.kernel.argEnd, asm.DWord)
	b.add(
		asm.LoadMem(asm.R1, asm.RFP, -16, asm.DWord),
		asm.Sub.Reg(asm.R0, asm.R1),
		asm.JGT.Imm(asm.R0, shortArea, "long"),
	)
	b.execRecord(event, shortArea, env)
	b.label = "long"
	b.execRecord(event, longArea, env)
	return b.end()
}

func (b *builder) execRecord(event int, area int32, env bool) {
	size := offArguments + area
	if env {
		size += longArea
	}
	b.reserve(size)
	b.header(event)
	b.add(
		asm.StoreImm(regRecord, offAreaSize, int64(area), asm.Word),
		asm.StoreImm(regRecord, offEnvBytes, 0, asm.Word),
		asm.StoreImm(regRecord, offEnvTotal, 0, asm.Word),
		asm.LoadMem(regWalk, regContext, 16, asm.DWord), // struct linux_binprm
	)
	b.load(asm.R3, regWalk, b.kernel.filename, asm.DWord)
	b.target(offFilename, filenameBytes)
	b.add(asm.FnProbeReadKernelStr.Call())
	b.load(regWalk, regTask, b.kernel.cred, asm.DWord)
	b.copyKernel(offEUID, 4, regWalk, b.kernel.euid)
	b.load(regWalk, regTask, b.kernel.mm, asm.DWord)
	b.copyArea(b.kernel.argStart, b.kernel.argEnd, offArgBytes, offArguments, area)
	if env {
		b.copyArea(b.kernel.envStart, b.kernel.envEnd, offEnvBytes, offArguments+area, longArea)
	}
	b.cwd()
	b.submit()
}

// copyArea copies an area of the process's memory, which regWalk's mm bounds, as
// far as there is room. A length of zero says that it could not be read.
func (b *builder) copyArea(start, end int32, lengths int16, to, room int32) {
	fits := b.fresh()
	b.load(asm.R0, regWalk, start, asm.DWord)
	b.add(asm.StoreMem(asm.RFP, -16, asm.R0, asm.DWord))
	b.load(asm.R2, regWalk, end, asm.DWord)
	b.add(
		asm.LoadMem(asm.R3, asm.RFP, -16, asm.DWord),
		asm.Sub.Reg(asm.R2, asm.R3),
		asm.StoreMem(regRecord, lengths+4, asm.R2, asm.Word),
		asm.JLE.Imm(asm.R2, room, fits),
		asm.Mov.Imm(asm.R2, room),
	)
	b.label = fits
	b.add(
		asm.StoreMem(regRecord, lengths, asm.R2, asm.Word),
		asm.Mov.Reg(asm.R1, regRecord),
		asm.Add.Imm(asm.R1, to),
		asm.FnProbeReadUser.Call(),
	)
	b.zeroUnlessRead(lengths)
}

// zeroUnlessRead clears a length when the helper before it could not read.
func (b *builder) zeroUnlessRead(length int16) {
	read := b.fresh()
	b.add(asm.JEq.Imm(asm.R0, 0, read), asm.StoreImm(regRecord, length, 0, asm.Word))
	b.label = read
	b.add(asm.Mov.Imm(asm.R0, 0)) // the label needs an instruction
}

// forkProgram reports new processes; a thread of an old one is none.
func forkProgram(b *builder, event int) asm.Instructions {
	b.begin()
	b.add(asm.LoadMem(regWalk, regContext, 8, asm.DWord)) // the child
	b.load(asm.R0, regWalk, b.kernel.pid, asm.Word)
	b.add(asm.StoreMem(asm.RFP, -16, asm.R0, asm.DWord))
	b.load(asm.R0, regWalk, b.kernel.tgid, asm.Word)
	b.add(asm.LoadMem(asm.R1, asm.RFP, -16, asm.DWord), asm.JNE.Reg(asm.R0, asm.R1, "out"))
	b.reserve(schedBytes)
	b.copyKernel(offChild, 4, regWalk, b.kernel.tgid)
	b.header(event)
	b.submit()
	return b.end()
}

// exitProgram reports the end of a process: of the last of its threads.
func exitProgram(b *builder, event int) asm.Instructions {
	b.begin()
	b.load(regWalk, regTask, b.kernel.signal, asm.DWord)
	b.load(asm.R0, regWalk, b.kernel.live, asm.Word)
	b.add(asm.JNE.Imm(asm.R0, 0, "out"))
	b.reserve(schedBytes)
	b.copyKernel(offExitCode, 4, regTask, b.kernel.exitCode)
	b.header(event)
	b.submit()
	return b.end()
}
