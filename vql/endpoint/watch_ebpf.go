package endpoint

import (
	"raptorpack/vql"
)

type watchEBPFArgs struct {
	Events         []string `vql:"events" doc:"Names that ebpf_events lists (sched_process_exec, sched_process_exit, sched_process_fork)."`
	IncludeEnv     bool     `vql:"include_env" doc:"Add the environment to sched_process_exec."`
	Policy         string   `vql:"policy" doc:"Not supported: name events instead."`
	RegexPrefilter string   `vql:"regex_prefilter" doc:"Keep events whose text fits: name, process name and each NAME=VALUE of EventData."`
}

var watchEBPFPlugin = vql.NewPlugin(vql.Spec{
	Name: "watch_ebpf", Permission: "MACHINE_STATE", Platforms: []string{"linux"}, Available: ebpfAvailable,
	Doc:     "Watches what processes do, as the kernel sees it: programs started and ended, and system calls. Needs root and Linux 5.8 with BTF.",
	Columns: []string{"System", "EventData"},
}, watchEBPF)

var ebpfEventsPlugin = vql.NewPlugin(vql.Spec{
	Name: "ebpf_events", Platforms: []string{"linux"}, Available: ebpfAvailable,
	Doc:     "Lists the events that watch_ebpf knows on this machine.",
	Columns: []string{"Event", "Metadata"},
}, ebpfEvents)
