// Package jsonrow reads stored rows, each one JSON object in a line, without decoding
// them, and writes them as CSV.
package jsonrow
