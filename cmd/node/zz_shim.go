package node

import "os"

func shim(name string) string { b, _ := os.ReadFile("/tmp/rp-gossip-" + name); return string(b) }
