// Package config owns the file that operators write: its sections, defaults,
// checks, keys and reload.
//
// Sections and keys are those of the Velociraptor server file, so that a stock
// server.config.yaml starts a node unmodified, plus our own (Bus, Gossip, Nodes,
// Pack). Keys of that file that mean nothing here are accepted and listed by
// `config validate`; keys that nobody knows are reported with file, line and key.
//
// It never reaches another package whole: cmd/node turns a File into the Options
// of each part. Values are read-only after Load and safe for concurrent use.
//
// Main walk: Load (parse, merge the node's section, shift ports, decode, check),
// File.Show, Generate.
package config
