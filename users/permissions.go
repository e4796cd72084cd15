package users

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Permission names something that an operator may do. The names are those that
// artifacts use (docs/permissions.md).
type Permission string

// All permissions.
const (
	AnyQuery             Permission = "ANY_QUERY"
	Publish              Permission = "PUBLISH"
	ReadResults          Permission = "READ_RESULTS"
	LabelClient          Permission = "LABEL_CLIENT"
	CollectClient        Permission = "COLLECT_CLIENT"
	CollectBasic         Permission = "COLLECT_BASIC"
	StartHunt            Permission = "START_HUNT"
	CollectServer        Permission = "COLLECT_SERVER"
	ArtifactWriter       Permission = "ARTIFACT_WRITER"
	ServerArtifactWriter Permission = "SERVER_ARTIFACT_WRITER"
	Execve               Permission = "EXECVE"
	NotebookEditor       Permission = "NOTEBOOK_EDITOR"
	ServerAdmin          Permission = "SERVER_ADMIN"
	OrgAdmin             Permission = "ORG_ADMIN"
	Impersonation        Permission = "IMPERSONATION"
	FilesystemRead       Permission = "FILESYSTEM_READ"
	FilesystemWrite      Permission = "FILESYSTEM_WRITE"
	Network              Permission = "NETWORK"
	MachineState         Permission = "MACHINE_STATE"
	PrepareResults       Permission = "PREPARE_RESULTS"
	DeleteResults        Permission = "DELETE_RESULTS"
	DatastoreAccess      Permission = "DATASTORE_ACCESS"
)

// Permissions lists every permission, in the order above.
func Permissions() []Permission {
	return []Permission{
		AnyQuery, Publish, ReadResults, LabelClient, CollectClient, CollectBasic, StartHunt, CollectServer,
		ArtifactWriter, ServerArtifactWriter, Execve, NotebookEditor, ServerAdmin, OrgAdmin, Impersonation,
		FilesystemRead, FilesystemWrite, Network, MachineState, PrepareResults, DeleteResults, DatastoreAccess,
	}
}

// ParsePermission reads a name, in any case.
func ParsePermission(text string) (Permission, error) {
	permission := Permission(strings.ToUpper(text))
	if !slices.Contains(Permissions(), permission) {
		return "", fmt.Errorf("permission %.40q: %w", text, ErrRefused)
	}
	return permission, nil
}

// roles maps each role to what it may do. An administrator may do everything
// within an org; making and entering orgs, and reading the store raw, are for
// org_admin.
var roles = map[string][]Permission{
	"reader":          {ReadResults},
	"api":             {AnyQuery, ReadResults},
	"basic":           {ReadResults, CollectBasic},
	"analyst":         {ReadResults, NotebookEditor, LabelClient, AnyQuery, PrepareResults},
	"investigator":    {ReadResults, NotebookEditor, CollectClient, CollectBasic, StartHunt, LabelClient, AnyQuery, PrepareResults},
	"artifact_writer": {ReadResults, ArtifactWriter},
	"administrator": {
		AnyQuery, Publish, ReadResults, LabelClient, CollectClient, CollectBasic, StartHunt, CollectServer,
		ArtifactWriter, ServerArtifactWriter, Execve, NotebookEditor, ServerAdmin, Impersonation,
		FilesystemRead, FilesystemWrite, Network, MachineState, PrepareResults, DeleteResults,
	},
	"org_admin": Permissions(),
}

// Roles lists the known roles, sorted.
func Roles() []string { return slices.Sorted(maps.Keys(roles)) }

// PermissionsOf returns what a set of roles may do; unknown roles give nothing.
func PermissionsOf(names []string) []Permission {
	var out []Permission
	for _, permission := range Permissions() {
		if slices.ContainsFunc(names, func(role string) bool { return slices.Contains(roles[role], permission) }) {
			out = append(out, permission)
		}
	}
	return out
}
