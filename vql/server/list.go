package server

import "raptorpack/vql"

// Functions lists the functions of this package for vql.NewEngine.
func Functions() []*vql.Function {
	return []*vql.Function{
		artifactDeleteFunction, artifactSetFunction, cancelFlowFunction, clientInfoFunction, clientMetadataFunction,
		clientSetMetadataFunction, collectClientFunction, getFlowFunction, huntAddFunction, huntFunction, huntInfoFunction,
		huntUpdateFunction, labelFunction, orgFunction, passwdFunction,
		serverMetadataFunction, userCreateFunction, userDeleteFunction, userGrantFunction, whoamiFunction,
	}
}

// Plugins lists the plugins of this package for vql.NewEngine.
func Plugins() []*vql.Plugin {
	return []*vql.Plugin{
		artifactDefinitionsPlugin, clientDeletePlugin, clientsPlugin, deleteFlowPlugin, enumerateFlowPlugin,
		flowLogsPlugin, flowResultsPlugin, flowsPlugin, guiUsersPlugin, huntDeletePlugin, huntFlowsPlugin,
		huntResultsPlugin, huntsPlugin, orgsPlugin, sourcePlugin, uploadsPlugin,
		usersPlugin,
	}
}
