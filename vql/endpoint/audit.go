package endpoint

import (
	"context"

	"raptorpack/vql"
)

var auditPlugin = vql.NewPlugin(vql.Spec{
	Name: "audit", Permission: "MACHINE_STATE", Platforms: []string{"linux"},
	Doc: "Gives the kernel's audit events as they happen. Auditing has to be on, and CAP_AUDIT_READ is needed.",
	Columns: []string{
		"timestamp", "sequence", "category", "record_type", "result", "session", "summary", "user", "process", "paths", "data",
	},
}, func(ctx context.Context, scope *vql.Scope, _ *struct{}, emit vql.Emit) error {
	return watchAudit(ctx, scope, emit)
})
