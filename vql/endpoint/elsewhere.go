package endpoint

import (
	"context"
	"errors"

	"raptorpack/vql"
)

// nowhere keeps what is known by name alone from being called anywhere: it answers
// "not available on GOOS", and version() of it is NULL, on its own platform too.
var nowhere = []string{"no platform yet"}

// knownFunction declares the name and arguments of a function that we do not have,
// so that artifacts which call it load, are checked and can be sent to clients.
func knownFunction[A any](name, doc string) *vql.Function {
	return vql.NewFunction(vql.Spec{Name: name, Doc: doc, Platforms: nowhere},
		func(context.Context, *vql.Scope, *A) (vql.Value, error) { return nil, errors.ErrUnsupported })
}

// knownPlugin is knownFunction for plugins.
func knownPlugin[A any](name, doc string) *vql.Plugin {
	return vql.NewPlugin(vql.Spec{Name: name, Doc: doc, Platforms: nowhere},
		func(context.Context, *vql.Scope, *A, vql.Emit) error { return errors.ErrUnsupported })
}

// Arguments that several of them share.
type (
	noArguments struct{}

	pidArgument struct {
		Pid int64 `vql:"pid,required" doc:"The process."`
	}
	fileArguments struct {
		File     *vql.Path `vql:"file,required" doc:"The file."`
		Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
	}
	filesArguments struct {
		File     []*vql.Path `vql:"file,required" doc:"The files."`
		Accessor string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
	}
	pathArgument struct {
		Path string `vql:"path,required" doc:"The key or value."`
	}
	ntfsArguments struct {
		Device      string    `vql:"device" doc:"The volume."`
		Filename    *vql.Path `vql:"filename" doc:"An image of a volume."`
		MFTFilename *vql.Path `vql:"mft_filename" doc:"A file that holds the MFT."`
		Accessor    string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
		Inode       string    `vql:"inode" doc:"The entry, as 974-16-0."`
		MFT         int64     `vql:"mft" doc:"The number of the entry."`
		MFTOffset   int64     `vql:"mft_offset" doc:"The entry's offset in the MFT."`
	}
	usnArguments struct {
		Device        *vql.Path `vql:"device" doc:"The volume."`
		ImageFilename *vql.Path `vql:"image_filename" doc:"An image of a volume."`
		Accessor      string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
		MFTFilename   *vql.Path `vql:"mft_filename" doc:"A file that holds the MFT."`
		USNFilename   *vql.Path `vql:"usn_filename" doc:"A file that holds the journal."`
	}
)

// knownFunctions are the functions that are known by name alone.
func knownFunctions() []*vql.Function {
	return []*vql.Function{
		knownFunction[struct {
			Filename *vql.Path `vql:"filename,required" doc:"The program."`
			Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
			Verbose  bool      `vql:"verbose" doc:"Show the whole certificates."`
		}]("authenticode", "Windows: checks the signature of a program."),
		knownFunction[struct {
			RVA    int64  `vql:"rva,required" doc:"The address in the module."`
			Module string `vql:"module,required" doc:"The module."`
		}]("describe_address", "Windows: names the function at an address."),
		knownFunction[struct {
			SID string `vql:"sid,required" doc:"The SID."`
		}]("lookupSID", "Windows: the name of a SID."),
		knownFunction[ntfsArguments]("parse_ntfs", "Parses an entry of an NTFS volume."),
		knownFunction[struct {
			File       *vql.Path `vql:"file,required" doc:"The program."`
			Accessor   string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
			BaseOffset int64     `vql:"base_offset" doc:"Where in the file the program begins."`
		}]("parse_pe", "Parses a Windows program."),
		knownFunction[struct {
			Pid        int64 `vql:"pid,required" doc:"The process."`
			BaseOffset int64 `vql:"base_offset,required" doc:"Where in its memory the module lies."`
			InMemory   int64 `vql:"in_memory" doc:"Keep modules up to so many bytes in memory."`
		}]("pe_dump", "Windows: writes a module of a process into a file."),
		knownFunction[fileArguments]("plist", "macOS: parses a property list."),
		knownFunction[pathArgument]("reg_rm_key", "Windows: removes a registry key."),
		knownFunction[pathArgument]("reg_rm_value", "Windows: removes a registry value."),
		knownFunction[struct {
			Path   string   `vql:"path,required" doc:"The value."`
			Value  vql.Lazy `vql:"value,required" doc:"What to set it to."`
			Type   string   `vql:"type,required" doc:"Its type, as SZ."`
			Create bool     `vql:"create" doc:"Make missing keys."`
		}]("reg_set_value", "Windows: sets a registry value."),
		knownFunction[struct{ Sources vql.Rest }]("sigma_log_sources", "Makes log sources for sigma()."),
		knownFunction[struct {
			File     *vql.Path `vql:"file,required" doc:"The database."`
			Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
			ID       int64     `vql:"id,required" doc:"The number to look up."`
		}]("srum_lookup_id", "Looks a number up in a SRUM database."),
		knownFunction[struct {
			Code    string    `vql:"code,required" doc:"The program."`
			Key     string    `vql:"key" doc:"Caches the compiled program."`
			Globals vql.Value `vql:"globals" doc:"Its variables."`
		}]("starl", "Runs a Starlark program."),
		knownFunction[struct {
			Path     *vql.Path `vql:"path,required" doc:"The file."`
			Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
		}]("tlsh_hash", "The TLSH hash of a file."),
		knownFunction[pidArgument]("token", "Windows: the token of a process."),
		knownFunction[struct {
			Service     string `vql:"service" doc:"The name of the driver's service."`
			ImagePath   string `vql:"image_path" doc:"Where to write the image."`
			Compression string `vql:"compression" doc:"none, s2, snappy or gzip."`
			DriverPath  string `vql:"driver_path" doc:"The driver."`
		}]("winpmem", "Windows: takes an image of the memory."),
	}
}

// knownPlugins are the plugins that are known by name alone.
func knownPlugins() []*vql.Plugin {
	return []*vql.Plugin{
		knownPlugin[usnArguments]("carve_usn", "Carves records of the USN journal from an NTFS volume."),
		knownPlugin[noArguments]("certificates", "Windows: lists the certificate stores."),
		knownPlugin[struct {
			Pid   int64    `vql:"pid" doc:"The process (all)."`
			Types []string `vql:"types" doc:"The types of handles to show (all)."`
		}]("handles", "Windows: lists open handles."),
		knownPlugin[pidArgument]("modules", "Windows: lists the modules of a process."),
		knownPlugin[struct {
			File     []*vql.Path `vql:"file,required" doc:"The documents."`
			Accessor string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
			MaxSize  int64       `vql:"max_size" doc:"Larger files are passed over."`
		}]("olevba", "Extracts macros from office documents."),
		knownPlugin[struct {
			File     *vql.Path `vql:"file,required" doc:"The database."`
			Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
			Table    string    `vql:"table,required" doc:"The table."`
		}]("parse_ese", "Gives the rows of a table of an ESE database."),
		knownPlugin[struct {
			Filename *vql.Path `vql:"filename,required" doc:"The MFT."`
			Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
			Prefix   *vql.Path `vql:"prefix" doc:"What stands before each path."`
			Start    int64     `vql:"start" doc:"The first entry."`
		}]("parse_mft", "Gives the entries of an NTFS volume's MFT."),
		knownPlugin[ntfsArguments]("parse_ntfs_i30", "Gives the entries of an NTFS folder's index, removed ones included."),
		knownPlugin[struct {
			Filename *vql.Path `vql:"filename,required" doc:"The mailbox."`
			Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
			Raw      bool      `vql:"raw" doc:"Show all properties."`
		}]("parse_pst", "Gives the messages of an Outlook mailbox."),
		knownPlugin[struct {
			Filename []*vql.Path `vql:"filename,required" doc:"The $I files."`
			Accessor string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
		}]("parse_recyclebin", "Parses what the recycle bin knows of a file."),
		knownPlugin[struct {
			Device        *vql.Path `vql:"device" doc:"The volume."`
			ImageFilename *vql.Path `vql:"image_filename" doc:"An image of a volume."`
			Accessor      string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
			MFTFilename   *vql.Path `vql:"mft_filename" doc:"A file that holds the MFT."`
			USNFilename   *vql.Path `vql:"usn_filename" doc:"A file that holds the journal."`
			StartOffset   int64     `vql:"start_offset" doc:"Where in the journal to begin."`
			FastPaths     bool      `vql:"fast_paths" doc:"Resolve paths quickly rather than exactly."`
		}]("parse_usn", "Gives the records of an NTFS volume's USN journal."),
		knownPlugin[filesArguments]("plist", "macOS: parses property lists."),
		knownPlugin[pidArgument]("proc_dump", "Windows: writes the memory of a process into a file."),
		knownPlugin[struct {
			Globs    []string  `vql:"globs" doc:"The keys."`
			Accessor string    `vql:"accessor" doc:"The accessor to open them with (registry)."`
			Root     *vql.Path `vql:"root" doc:"The key to begin at."`
		}]("read_reg_key", "Gives the values of registry keys as columns."),
		knownPlugin[struct {
			Rules          []string   `vql:"rules,required" doc:"The rules."`
			LogSources     vql.Value  `vql:"log_sources,required" doc:"Where events come from."`
			FieldMapping   *vql.Dict  `vql:"field_mapping" doc:"Field names to lambdas."`
			Debug          bool       `vql:"debug" doc:"Show what did not match too."`
			RuleFilter     vql.Lambda `vql:"rule_filter" doc:"Which rules to take."`
			DefaultDetails vql.Lambda `vql:"default_details" doc:"Describes a match whose rule does not."`
		}]("sigma", "Matches events with Sigma rules."),
		knownPlugin[pidArgument]("threads", "Windows: lists the threads of a process."),
		knownPlugin[pidArgument]("vad", "Windows: lists the memory regions of a process."),
		knownPlugin[struct {
			Name               string     `vql:"name" doc:"The session's name."`
			GUID               string     `vql:"guid,required" doc:"The provider."`
			Any                int64      `vql:"any" doc:"Keywords of which any has to be set."`
			All                int64      `vql:"all" doc:"Keywords that all have to be set."`
			Level              int64      `vql:"level" doc:"The highest level."`
			Stop               vql.Lambda `vql:"stop" doc:"Ends the watch when it is true of an event."`
			Timeout            int64      `vql:"timeout" doc:"Seconds after which to end."`
			CaptureState       bool       `vql:"capture_state" doc:"Ask the provider for its state."`
			EnableMapInfo      bool       `vql:"enable_map_info" doc:"Resolve the names of values."`
			Description        string     `vql:"description" doc:"What the session is for."`
			KernelTracerType   []string   `vql:"kernel_tracer_type" doc:"Events of the kernel to take."`
			KernelTracerStacks []string   `vql:"kernel_tracer_stacks" doc:"Those of them that come with stacks."`
		}]("watch_etw", "Windows: watches events of a provider."),
		knownPlugin[struct {
			Device string `vql:"device,required" doc:"The volume."`
		}]("watch_usn", "Windows: watches the USN journal of a volume."),
		knownPlugin[struct {
			Path string `vql:"path" doc:"The folder of objects."`
		}]("winobj", "Windows: lists the objects of the kernel."),
		knownPlugin[struct {
			Query     string `vql:"query,required" doc:"The WMI query."`
			Namespace string `vql:"namespace" doc:"The namespace (ROOT/CIMV2)."`
		}]("wmi", "Windows: runs a WMI query."),
		knownPlugin[struct {
			Query     string `vql:"query,required" doc:"The WMI query."`
			Namespace string `vql:"namespace,required" doc:"The namespace."`
			Wait      int64  `vql:"wait,required" doc:"Seconds to wait for events."`
		}]("wmi_events", "Windows: watches WMI events."),
		knownPlugin[struct {
			Rules        string      `vql:"rules" doc:"The rules."`
			Files        []vql.Value `vql:"files,required" doc:"The files."`
			Accessor     string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
			Context      int64       `vql:"context" doc:"Bytes to show on either side of a hit."`
			Start        int64       `vql:"start" doc:"Where in a file to begin."`
			End          int64       `vql:"end" doc:"Where in a file to end."`
			Number       int64       `vql:"number" doc:"Hits in a file at most (1)."`
			Blocksize    int64       `vql:"blocksize" doc:"Bytes to scan at a time (1 MiB)."`
			Key          string      `vql:"key" doc:"Caches the compiled rules."`
			Namespace    string      `vql:"namespace" doc:"The rules' namespace."`
			Vars         *vql.Dict   `vql:"vars" doc:"The rules' variables."`
			DLLPath      vql.Lambda  `vql:"dll_path,required" doc:"Where the library is."`
			ForceBuffers bool        `vql:"force_buffers" doc:"Always scan in blocks."`
		}]("yarax", "Scans files with YARA-X."),
	}
}
