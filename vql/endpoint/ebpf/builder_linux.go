//go:build amd64 || arm64

package ebpf

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Registers that calls of helpers leave alone.
const (
	regContext = asm.R6 // the tracepoint's arguments, eight bytes each
	regTask    = asm.R7 // the current task
	regRecord  = asm.R8 // the record in the ring
	regWalk    = asm.R9 // a pointer on its way through the kernel's structures
)

// stackWord is where pointers are read to before they are in a register.
const stackWord = -8

// builder writes a program. Kernel memory is read by helper only, so that a
// pointer that leads nowhere gives zeros and not a program that is refused.
type builder struct {
	kernel *kernel
	ring   *ebpf.Map
	counts *ebpf.Map
	code   asm.Instructions
	label  string // of the instruction to come
	labels int    // made by fresh
}

// fresh makes a label that nothing else has.
func (b *builder) fresh() string {
	b.labels++
	return fmt.Sprintf("at%d", b.labels)
}

func (b *builder) add(more ...asm.Instruction) {
	for _, ins := range more {
		if b.label != "" {
			ins = ins.WithSymbol(b.label)
			b.label = ""
		}
		b.code = append(b.code, ins)
	}
}

// begin keeps the context and asks for the task.
func (b *builder) begin() {
	b.add(
		asm.Mov.Reg(regContext, asm.R1),
		asm.FnGetCurrentTask.Call(),
		asm.Mov.Reg(regTask, asm.R0),
	)
}

// reserve takes size bytes of the ring, or counts a lost record and ends.
func (b *builder) reserve(size int32) {
	b.add(
		asm.LoadMapPtr(asm.R1, b.ring.FD()),
		asm.Mov.Imm(asm.R2, size),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "lost"),
		asm.Mov.Reg(regRecord, asm.R0),
	)
}

// submit hands the record over and ends.
func (b *builder) submit() {
	b.add(
		asm.Mov.Reg(asm.R1, regRecord),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRingbufSubmit.Call(),
		asm.Ja.Label("out"),
	)
}

// end writes the ways out of a program: "lost" counts, "out" ends.
func (b *builder) end() asm.Instructions {
	b.count("lost", countLost)
	b.label = "out"
	b.add(asm.Mov.Imm(asm.R0, 0), asm.Return())
	return b.code
}

// count adds one to a counter of this processor and ends.
func (b *builder) count(label string, index int64) {
	b.label = label
	b.add(
		asm.StoreImm(asm.RFP, stackWord, index, asm.Word),
		asm.LoadMapPtr(asm.R1, b.counts.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackWord),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Ja.Label("out"),
	)
}

// copyKernel copies size bytes of base+offset into the record.
func (b *builder) copyKernel(to, size int32, base asm.Register, offset int32) {
	b.target(to, size)
	b.add(asm.Mov.Reg(asm.R3, base), asm.Add.Imm(asm.R3, offset), asm.FnProbeReadKernel.Call())
}

// target points the first two arguments of a helper to a place in the record.
func (b *builder) target(to, size int32) {
	b.add(asm.Mov.Reg(asm.R1, regRecord), asm.Add.Imm(asm.R1, to), asm.Mov.Imm(asm.R2, size))
}

// load reads a member of base, size bytes wide, into a register; zero when base
// leads nowhere. The rest of the word is zero.
func (b *builder) load(into, base asm.Register, offset int32, size asm.Size) {
	b.add(
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, stackWord, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R3, base),
		asm.Add.Imm(asm.R3, offset),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, stackWord),
		asm.Mov.Imm(asm.R2, int32(size.Sizeof())),
		asm.FnProbeReadKernel.Call(),
		asm.LoadMem(into, asm.RFP, stackWord, asm.DWord),
	)
}

// header fills what all records have. It needs regWalk for itself.
func (b *builder) header(event int) {
	b.add(
		asm.FnKtimeGetBootNs.Call(),
		asm.StoreMem(regRecord, offTime, asm.R0, asm.DWord),
		asm.StoreImm(regRecord, offEvent, int64(event), asm.Word),
		asm.FnGetCurrentPidTgid.Call(),
		asm.StoreMem(regRecord, offTID, asm.R0, asm.Word),
		asm.RSh.Imm(asm.R0, 32),
		asm.StoreMem(regRecord, offPID, asm.R0, asm.Word),
		asm.FnGetCurrentUidGid.Call(),
		asm.StoreMem(regRecord, offUID, asm.R0, asm.Word),
		asm.RSh.Imm(asm.R0, 32),
		asm.StoreMem(regRecord, offGID, asm.R0, asm.Word),
	)
	b.target(offComm, commBytes)
	b.add(asm.FnGetCurrentComm.Call())
	b.localPID()
	b.load(regWalk, regTask, b.kernel.realParent, asm.DWord)
	b.copyKernel(offPPID, 4, regWalk, b.kernel.tgid)
	b.cgroups()
}

// localPID writes the process id that our own namespace knows the process by, by
// which it finds itself and /proc.
func (b *builder) localPID() {
	b.add(
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, stackWord, asm.R1, asm.DWord),
		asm.LoadImm(asm.R1, int64(b.kernel.namespace.device), asm.DWord),
		asm.LoadImm(asm.R2, int64(b.kernel.namespace.inode), asm.DWord),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, stackWord),
		asm.Mov.Imm(asm.R4, 8),
		asm.FnGetNsCurrentPidTgid.Call(),
		asm.LoadMem(asm.R0, asm.RFP, stackWord+4, asm.Word), // zero in another namespace
		asm.StoreMem(regRecord, offLocal, asm.R0, asm.Word),
	)
}

// cgroups writes the names of the task's cgroup and of those above it.
func (b *builder) cgroups() {
	b.load(regWalk, regTask, b.kernel.cgroups, asm.DWord)
	b.load(regWalk, regWalk, b.kernel.subsystem, asm.DWord)
	if b.kernel.stateCgroup >= 0 {
		b.load(regWalk, regWalk, b.kernel.stateCgroup, asm.DWord)
	}
	b.load(regWalk, regWalk, b.kernel.kernfs, asm.DWord)
	for i := range int32(cgroupLevels) {
		b.load(asm.R3, regWalk, b.kernel.nodeName, asm.DWord)
		b.target(offCgroups+i*cgroupBytes, cgroupBytes)
		b.add(asm.FnProbeReadKernelStr.Call())
		if i < cgroupLevels-1 {
			b.load(regWalk, regWalk, b.kernel.nodeParent, asm.DWord)
		}
	}
}
