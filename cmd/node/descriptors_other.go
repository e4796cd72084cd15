//go:build !unix

package node

// maxConnections leaves the default of the door: there is no limit to ask for.
func maxConnections() int64 { return 0 }
