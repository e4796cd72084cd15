package reference_test

// Reasons that several deviations share.
const (
	wider      = "takes all that the contract has, and more"
	needed     = "without it the call has nothing to work on; said before anything is looked at"
	bothAsked  = "declares the first; the call asks for the other itself, or for the one that its target needs"
	closer     = "the contract asks for none; on a server it tells of the machine, or changes what others use"
	ownMachine = "asks for more than the contract on servers: it reads the machine's files or processes"
	byAccessor = "declares the one for its own work; reading asks for FILESYSTEM_READ at the accessor"
)

// deviations are the places where declarations leave the contract by intent, in the
// words of differences, each with its reason. One that is no longer true fails.
var deviations = map[string]string{
	// Types that take what the contract's type takes.
	"function filter: list is any not any[]":                   wider,
	"function filter: regex is str[] not str":                  wider,
	"function get: default is lazy not any":                    "is evaluated only where it is needed",
	"function import_collection: filename is path not str":     wider,
	"function regex_replace: replace_lambda is lambda not str": "a lambda's text is parsed before the first row, so that its mistakes show at once",
	"function timestamp: string is any not str":                wider,
	"function upload: name is any not path":                    wider,
	"function upload_directory: name is any not path":          wider,
	"plugin collect: ops_per_sec is float not int":             wider,
	"plugin delete_events: end_time is any not time":           "what is no time is refused, not taken as the beginning of time",
	"plugin delete_events: start_time is any not time":         "what is no time is refused, not taken as the beginning of time",
	"plugin glob: recursion_callback is lambda not str":        "a lambda's text is parsed before the first row, so that its mistakes show at once",
	"plugin http_client: files is any[] not dict[]":            "what is no dict is refused with a reason",
	"plugin write_csv: filename is str not path":               "names a new file; no accessor but file can write",
	"plugin yara: files is path[] not any[]":                   "texts, path objects and rows of glob are all paths",

	// Arguments.
	"function artifact_set: definition is required: true":           needed,
	"function cancel_flow: flow_id is required: true":               needed,
	"function get_flow: flow_id is required: true":                  needed,
	"plugin enumerate_flow: flow_id is required: true":              needed,
	"function import_collection: argument password is one more":     "opens a sealed zip",
	"function server_set_metadata: takes any further keyword: true": "as client_set_metadata does",

	// Permissions.
	"function artifact_set: needs - not ARTIFACT_WRITER+SERVER_ARTIFACT_WRITER":           "asks for the one that the definition's type needs",
	"function cancel_flow: needs - not COLLECT_SERVER+COLLECT_CLIENT":                     "asks for the one that the client or the server needs",
	"function collect_client: needs - not COLLECT_CLIENT+COLLECT_SERVER+COLLECT_BASIC":    "asks for the one that the client, the server or a basic artifact needs",
	"function get_flow: needs - not COLLECT_CLIENT+COLLECT_SERVER":                        "reading results is enough to see a flow",
	"function client_metadata: needs READ_RESULTS not READ_RESULTS+SERVER_ADMIN":          bothAsked,
	"function client_set_metadata: needs COLLECT_CLIENT not COLLECT_CLIENT+SERVER_ADMIN":  bothAsked,
	"function hunt: needs START_HUNT not START_HUNT+ORG_ADMIN":                            "ORG_ADMIN is for hunts over several orgs, which are refused",
	"function import_collection: needs COLLECT_SERVER not COLLECT_SERVER+FILESYSTEM_READ": bothAsked,
	"function repack: needs COLLECT_SERVER not COLLECT_SERVER+FILESYSTEM_WRITE":           bothAsked,
	"function copy: needs FILESYSTEM_WRITE not FILESYSTEM_WRITE+FILESYSTEM_READ":          byAccessor,
	"function upload_azure: needs NETWORK not FILESYSTEM_READ+NETWORK":                    byAccessor,
	"function upload_gcs: needs NETWORK not FILESYSTEM_READ":                              byAccessor,
	"function upload_s3: needs NETWORK not NETWORK+FILESYSTEM_READ":                       byAccessor,
	"function file_store: needs SERVER_ADMIN not -":                                       closer,
	"function remap: needs FILESYSTEM_READ not -":                                         closer,
	"function server_set_metadata: needs SERVER_ADMIN not -":                              closer,
	"function user_create: needs SERVER_ADMIN not -":                                      closer,
	"function trace: needs MACHINE_STATE not -":                                           closer,
	"plugin filesystems: needs MACHINE_STATE not -":                                       ownMachine,
	"plugin mail: needs NETWORK not -":                                                    "as the function of the same name",
	"plugin sqlite: needs MACHINE_STATE not -":                                            ownMachine,
	"function process_tracker_callchain: needs MACHINE_STATE not -":                       ownMachine,
	"function process_tracker_children: needs MACHINE_STATE not -":                        ownMachine,
	"function process_tracker_get: needs MACHINE_STATE not -":                             ownMachine,
	"function process_tracker_tree: needs MACHINE_STATE not -":                            ownMachine,
	"plugin process_tracker_pslist: needs MACHINE_STATE not -":                            ownMachine,
}
