package ebpf

// compatBit marks a task of the 32-bit ABI: TIF_32BIT in the flags of struct
// thread_info, arch/arm64/include/asm/thread_info.h.
const compatBit = 1 << 22

// registers finds the number and the arguments of a system call. The first
// register holds the result by then; its old value is in orig_x0.
func (k *kernel) registers(l *layouts) {
	k.compat = l.offset("task_struct", "thread_info", "flags")
	k.number = l.offset("pt_regs", "syscallno")
	k.arguments[0] = l.offset("pt_regs", "orig_x0")
	regs := l.offset("pt_regs", "regs")
	for i := 1; i < len(k.arguments); i++ {
		k.arguments[i] = regs + 8*int32(i)
	}
}
