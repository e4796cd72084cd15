package endpoint

import (
	"context"
	"strings"

	"github.com/shirou/gopsutil/v4/disk"
	"raptorpack/vql"
)

var mountColumns = []string{"device", "mountpoint", "fstype", "opts"}

var filesystemsPlugin = vql.NewPlugin(vql.Spec{
	Name: "filesystems", Permission: "MACHINE_STATE", Columns: mountColumns,
	Doc: "Lists mounted file systems, those of the kernel's own included.",
}, runFilesystems)

var partitionsPlugin = vql.NewPlugin(vql.Spec{
	Name: "partitions", Permission: "MACHINE_STATE", Columns: mountColumns,
	Doc: "Lists mounted file systems.",
}, runFilesystems)

func runFilesystems(ctx context.Context, _ *vql.Scope, _ *struct{}, emit vql.Emit) error {
	mounts, err := listMounts(ctx)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		row := vql.NewDict()
		row.Set("device", m.device)
		row.Set("mountpoint", m.point)
		row.Set("fstype", m.kind)
		opts := []vql.Value{}
		for _, o := range strings.Split(m.options, ",") {
			opts = append(opts, o)
		}
		row.Set("opts", opts)
		if err := emit(row); err != nil {
			return err
		}
	}
	return nil
}

// gopsutilMounts lists mounts where there is no /proc.
func gopsutilMounts(ctx context.Context) ([]mount, error) {
	all, err := disk.PartitionsWithContext(ctx, true)
	if err != nil {
		return nil, err
	}
	var out []mount
	for _, p := range all {
		out = append(out, mount{p.Device, p.Mountpoint, p.Fstype, strings.Join(p.Opts, ",")})
	}
	return out, nil
}
