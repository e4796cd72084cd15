//go:build amd64 || arm64

package ebpf

import "github.com/cilium/ebpf/asm"

// cwdSteps bounds the way from a directory to the root: a step for each name and
// for each mount between.
const cwdSteps = 24

// cwd writes the names of the task's working directory, the last one first, each
// with its NUL. It is the last to write a record: from here on regContext is the
// place in the area, and regTask the mount.
//
// A name is up to 255 bytes, so that it fits while the place is at most
// cwdBytes - nameBytes; the verifier follows this from the two comparisons.
func (b *builder) cwd() {
	k, end := &b.kernel.paths, b.fresh()
	b.load(regWalk, regTask, k.fs, asm.DWord)
	b.load(regTask, regWalk, k.mount, asm.DWord)
	b.add(asm.Sub.Imm(regTask, k.vfsmount)) // the struct mount around a vfsmount
	b.load(regWalk, regWalk, k.dentry, asm.DWord)
	b.add(
		asm.StoreImm(regRecord, offCwdWhole, 0, asm.Word),
		asm.Mov.Imm(regContext, 0),
	)
	for range cwdSteps {
		b.cwdStep(k, end)
	}
	b.label = end
	b.add(asm.StoreMem(regRecord, offCwdBytes, regContext, asm.Word))
}

// cwdStep writes a name and goes to the directory above, or leaves a mount.
func (b *builder) cwdStep(k *pathOffsets, end string) {
	name, next := b.fresh(), b.fresh()
	b.load(asm.R0, regTask, k.vfsmount+k.mountRoot, asm.DWord)
	b.add(asm.JNE.Reg(asm.R0, regWalk, name))

	above := b.fresh()
	b.load(asm.R0, regTask, k.mountParent, asm.DWord)
	b.add(
		asm.JNE.Reg(asm.R0, regTask, above),
		asm.StoreImm(regRecord, offCwdWhole, 1, asm.Word), // nothing above: the root
		asm.Ja.Label(end),
	)
	b.label = above
	b.load(regWalk, regTask, k.mountPoint, asm.DWord)
	b.load(regTask, regTask, k.mountParent, asm.DWord)
	b.add(asm.Ja.Label(next))

	b.label = name
	b.add(asm.JGT.Imm(regContext, cwdBytes-nameBytes, end))
	b.load(asm.R3, regWalk, k.name, asm.DWord)
	b.target(offCwd, nameBytes)
	b.add(
		asm.Add.Reg(asm.R1, regContext),
		asm.FnProbeReadKernelStr.Call(),
		asm.JSLT.Imm(asm.R0, 1, end),
		asm.JGT.Imm(asm.R0, nameBytes, end),
		asm.Add.Reg(regContext, asm.R0),
	)
	b.load(regWalk, regWalk, k.parent, asm.DWord)
	b.label = next
	b.add(asm.Mov.Imm(asm.R0, 0)) // the label needs an instruction
}
