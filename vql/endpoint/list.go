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
		trackerChildrenFunction, traceFunction, trackerGetFunction, trackerTreeFunction, uploadAzureFunction,
		uploadDirectoryFunction, uploadFunction, uploadGCSFunction, uploadS3Function, xattrFunction,
	}, append(knownFunctions(), laterFunctions()...)...)
}

// Plugins lists the plugins of this package for vql.NewEngine.
func Plugins() []*vql.Plugin {
	return append([]*vql.Plugin{
		adxUploadPlugin, auditPlugin, connectionsPlugin, ebpfEventsPlugin, efiPlugin, elasticUploadPlugin, environPlugin, execvePlugin, filesystemsPlugin, globPlugin, httpClientPlugin,
		infoPlugin, interfacesPlugin, leveldbPlugin, logscaleUploadPlugin, mailPlugin, netcatPlugin, netstatPlugin, parseCSVPlugin, parseEvtxPlugin,
		parseJSONArrayPlugin, parseJSONLPlugin, parseJournaldPlugin, parseLinesPlugin, parseRecordsPlugin,
		partitionsPlugin, procYaraPlugin, profileGoroutinesPlugin, profileMemoryPlugin, profilePlugin, pslistPlugin, readFilePlugin,
		splitRecordsPlugin, splunkUploadPlugin, sqlitePlugin, statPlugin, trackerPslistPlugin, unzipPlugin, vfsListPlugin, watchEBPFPlugin, watchEvtxPlugin,
		watchJournaldPlugin, watchSyslogPlugin, writeCSVPlugin, writeJSONLPlugin, yaraPlugin,
	}, append(knownPlugins(), laterPlugins()...)...)
}
