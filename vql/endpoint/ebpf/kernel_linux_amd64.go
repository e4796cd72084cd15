package ebpf

// compatBit marks a system call of the 32-bit ABI: TS_COMPAT in the status of
// struct thread_info, arch/x86/include/asm/thread_info.h.
const compatBit = 0x2

// registers finds the number and the arguments of a system call, of which the
// last instruction of a call leaves all as they were.
func (k *kernel) registers(l *layouts) {
	k.compat = l.offset("task_struct", "thread_info", "status")
	k.number = l.offset("pt_regs", "orig_ax")
	for i, name := range []string{"di", "si", "dx", "r10", "r8", "r9"} {
		k.arguments[i] = l.offset("pt_regs", name)
	}
}
