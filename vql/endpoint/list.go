package endpoint

import "raptorpack/vql"

// Functions lists the functions of this package for vql.NewEngine.
func Functions() []*vql.Function {
	return append([]*vql.Function{
		basenameFunction, copyFunction, cryptoRC4Function, dirnameFunction, entropyFunction, environFunction,
		expandFunction, geoipFunction, getpidFunction, grokFunction, gunzipFunction, hashFunction, hostFunction,
		infoFunction,
		lruFunction, magicFunction, mailFunction, parseBinaryFunction, parseJSONArrayFunction, parseJSONFunction,
		parsePKCS7Function, parseStringFunction, parseX509Function, parseXMLFunction, parseYAMLFunction,
		pathJoinFunction, pathSplitFunction, pathspecFunction, pskillFunction, readFileFunction,
		regexReplaceFunction, regexTransformFunction, rekeyFunction, relpathFunction, remapFunction, rmFunction, rot13Function, statFunction,
		sysinfoFunction, tempdirFunction, tempfileFunction, trackerAllFunction, trackerCallchainFunction,
		trackerChildrenFunction, traceFunction, trackerGetFunction, trackerTreeFunction, uploadFunction, xattrFunction,
	}, knownFunctions()...)
}

// Plugins lists the plugins of this package for vql.NewEngine.
func Plugins() []*vql.Plugin {
	return append([]*vql.Plugin{
		auditPlugin, connectionsPlugin, ebpfEventsPlugin, efiPlugin, environPlugin, execvePlugin, filesystemsPlugin, globPlugin, httpClientPlugin,
		infoPlugin, interfacesPlugin, leveldbPlugin, mailPlugin, netcatPlugin, netstatPlugin, parseCSVPlugin, parseEvtxPlugin,
		parseJSONArrayPlugin, parseJSONLPlugin, parseJournaldPlugin, parseLinesPlugin, parseRecordsPlugin,
		partitionsPlugin, procYaraPlugin, profileGoroutinesPlugin, profileMemoryPlugin, profilePlugin, pslistPlugin, readFilePlugin,
		splitRecordsPlugin, sqlitePlugin, statPlugin, trackerPslistPlugin, unzipPlugin, vfsListPlugin, watchEBPFPlugin,
		watchEvtxPlugin, watchJournaldPlugin, watchSyslogPlugin, writeCSVPlugin, writeJSONLPlugin, yaraPlugin,
	}, knownPlugins()...)
}
