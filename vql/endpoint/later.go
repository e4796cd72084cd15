package endpoint

import "raptorpack/vql"

// laterFunctions are functions that need what this version does not have: the GUI, or
// something that outlives a query on the agent. Artifacts that call them load and are
// checked.
func laterFunctions() []*vql.Function {
	return []*vql.Function{
		knownFunction[struct {
			Type       string    `vql:"type" doc:"What to link to."`
			ClientID   string    `vql:"client_id" doc:"The client."`
			FlowID     string    `vql:"flow_id" doc:"The collection."`
			Upload     *vql.Dict `vql:"upload" doc:"The upload."`
			Tab        string    `vql:"tab" doc:"The tab of the page."`
			Text       string    `vql:"text" doc:"The text of the link."`
			HuntID     string    `vql:"hunt_id" doc:"The hunt."`
			NotebookID string    `vql:"notebook_id" doc:"The notebook."`
			Artifact   string    `vql:"artifact" doc:"The artifact."`
			Parameters *vql.Dict `vql:"parameters" doc:"Its parameters."`
			Raw        bool      `vql:"raw" doc:"The address alone."`
			Org        string    `vql:"org" doc:"The org."`
		}]("link_to", "Links to a page of the GUI."),
		knownFunction[struct {
			SyncQuery   vql.Query `vql:"sync_query" doc:"Lists all processes."`
			SyncPeriod  int64     `vql:"sync_period" doc:"Milliseconds between two lists (5000)."`
			UpdateQuery vql.Query `vql:"update_query" doc:"Tells of starts and ends."`
			MaxSize     int64     `vql:"max_size" doc:"How many processes are remembered."`
			MaxExpiry   int64     `vql:"max_expiry" doc:"Seconds that ended ones are remembered."`
			Enrichments []string  `vql:"enrichments" doc:"Lambdas that add to each process."`
			Cache       string    `vql:"cache" doc:"A file that keeps them."`
		}]("process_tracker", "Remembers processes that have ended. process_tracker_get and its kin ask the system each time."),
		knownFunction[struct {
			Argv   []string  `vql:"argv,required" doc:"The program and its arguments."`
			Env    *vql.Dict `vql:"env" doc:"Its environment."`
			Cwd    string    `vql:"cwd" doc:"Its folder."`
			Secret string    `vql:"secret" doc:"A secret with these."`
			Name   string    `vql:"name" doc:"What the session is called."`
		}]("shell_session", "Starts a program that later queries talk to."),
		knownFunction[struct {
			Name       string `vql:"name" doc:"The session."`
			Stdin      string `vql:"stdin" doc:"What to send."`
			CloseStdin bool   `vql:"close_stdin" doc:"Send no more."`
			Kill       bool   `vql:"kill" doc:"End the program."`
		}]("shell_session_control", "Talks to a program that shell_session started."),
	}
}

// packageArguments are those of deb_create and rpm_create.
type packageArguments struct {
	Target        string    `vql:"target" doc:"The tool that is the program."`
	Version       string    `vql:"version" doc:"The tool's version."`
	Release       string    `vql:"release" doc:"The package's release."`
	Server        bool      `vql:"server" doc:"A package of the server, not of the client."`
	Exe           *vql.Path `vql:"exe" doc:"The program."`
	Accessor      string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
	Config        string    `vql:"config" doc:"The configuration."`
	ShowSpec      bool      `vql:"show_spec" doc:"Show the package's specification."`
	DirectoryName string    `vql:"directory_name" doc:"Where to write it."`
	ExtraArgs     []string  `vql:"extra_args" doc:"Further arguments of the service."`
	PackageSpec   *vql.Dict `vql:"package_spec" doc:"Parts of the specification to replace."`
}

// laterPlugins are laterFunctions for plugins.
func laterPlugins() []*vql.Plugin {
	return []*vql.Plugin{
		knownPlugin[packageArguments]("deb_create", "Makes a Debian package of the client or server."),
		knownPlugin[packageArguments]("rpm_create", "Makes an RPM package of the client or server."),
		knownPlugin[struct {
			Component []string `vql:"component" doc:"Only of these parts."`
			Prelog    bool     `vql:"prelog" doc:"Begin with what was logged before."`
		}]("logging", "Follows the log of the server."),
		knownPlugin[noArguments]("process_tracker_updates", "Follows starts and ends of processes as the tracker knows them."),
		knownPlugin[struct {
			Filename *vql.Path `vql:"filename,required" doc:"The file."`
			Query    vql.Query `vql:"query,required" doc:"The rows."`
			MaxWait  int64     `vql:"max_wait" doc:"Seconds after which rows are written (60)."`
			MaxRows  int64     `vql:"max_rows" doc:"Rows after which they are written (1000)."`
			MaxSize  int64     `vql:"max_size" doc:"Begin anew beyond so many bytes."`
		}]("write_crypto_file", "Writes rows to a file that only the server can read."),
	}
}
