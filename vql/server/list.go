package server

import "raptorpack/vql"

// Functions lists the functions of this package for vql.NewEngine.
func Functions() []*vql.Function {
	return []*vql.Function{
		addClientMonitoringFunction, addServerMonitoringFunction, artifactDeleteFunction, artifactSetFunction,
		cancelFlowFunction, clientInfoFunction, clientMetadataFunction, clientSetMetadataFunction, collectClientFunction,
		favoritesDeleteFunction, favoritesSaveFunction, fileStoreDeleteFunction, fileStoreFunction,
		createFlowDownloadFunction, createHuntDownloadFunction, importCollectionFunction, repackFunction,
		getClientMonitoringFunction, getFlowFunction, getServerMonitoringFunction, huntAddFunction, huntFunction,
		huntInfoFunction, huntUpdateFunction, inventoryAddFunction, inventoryGetFunction, killFunction, labelFunction, orgCreateFunction, orgDeleteFunction, orgFunction, passwdFunction, rmClientMonitoringFunction,
		rmServerMonitoringFunction, frontendCertFunction, serverMetadataFunction, serverSetMetadataFunction, setClientMonitoringFunction, setServerMonitoringFunction, timelineAddFunction, timelineDeleteFunction,
		userCreateFunction, userDeleteFunction, userGrantFunction, userMessageFunction, userOptionsFunction, newVerifyFunction(), whoamiFunction,
	}
}

// Plugins lists the plugins of this package for vql.NewEngine.
func Plugins() []*vql.Plugin {
	return []*vql.Plugin{
		artifactDefinitionsPlugin, clientDeletePlugin, clientsPlugin, deleteEventsPlugin, deleteFlowPlugin, enumerateFlowPlugin, favoritesListPlugin,
		flowLogsPlugin, flowResultsPlugin, flowsPlugin, guiUsersPlugin, huntDeletePlugin, huntFlowsPlugin,
		huntResultsPlugin, huntsPlugin, inventoryPlugin, monitoringLogsPlugin, monitoringPlugin, notebookDeletePlugin, orgsPlugin, sourcePlugin, timelinePlugin, timelinesPlugin, uploadsPlugin,
		userMessagesPlugin, usersPlugin, watchMonitoringPlugin,
	}
}
