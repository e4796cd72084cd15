package endpoint

import "raptorpack/vql"

// Functions lists the functions of this package for vql.NewEngine.
func Functions() []*vql.Function {
	return []*vql.Function{
		basenameFunction, copyFunction, dirnameFunction, environFunction, expandFunction, geoipFunction,
		getpidFunction, grokFunction, hashFunction, infoFunction, mailFunction, parseBinaryFunction,
		parseJSONArrayFunction, parseJSONFunction, parseStringFunction, parseXMLFunction, parseYAMLFunction,
		pathJoinFunction, pathSplitFunction, pathspecFunction, pskillFunction, readFileFunction,
		regexReplaceFunction, regexTransformFunction, rekeyFunction, relpathFunction, rmFunction, statFunction,
		sysinfoFunction, tempdirFunction, tempfileFunction, trackerAllFunction, trackerCallchainFunction,
		trackerChildrenFunction, traceFunction, trackerGetFunction, trackerTreeFunction, uploadFunction,
	}
}

// Plugins lists the plugins of this package for vql.NewEngine.
func Plugins() []*vql.Plugin {
	return []*vql.Plugin{
		connectionsPlugin, environPlugin, execvePlugin, filesystemsPlugin, globPlugin, httpClientPlugin,
		infoPlugin, interfacesPlugin, mailPlugin, netstatPlugin, parseCSVPlugin, parseJSONArrayPlugin,
		parseJSONLPlugin, parseLinesPlugin, parseRecordsPlugin, partitionsPlugin, pslistPlugin,
		profileGoroutinesPlugin, profileMemoryPlugin, profilePlugin, readFilePlugin, splitRecordsPlugin, statPlugin, trackerPslistPlugin, vfsListPlugin, writeCSVPlugin, writeJSONLPlugin,
	}
}
