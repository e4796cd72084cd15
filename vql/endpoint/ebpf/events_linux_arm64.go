package ebpf

// machineCalls is empty: arm64 has none of the older calls.
var machineCalls []event
