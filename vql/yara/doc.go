// Package yara compiles YARA rules and scans files and memory with them, without
// a C compiler, a shared library or cgo.
//
// libyara is compiled to WebAssembly (libyara.wasm, made by scripts/yara/build.sh)
// and runs in wazero: a hostile file or rule that breaks libyara ends the one
// instance that read it, as an error of that scan. An instance sees no file, no
// socket and no environment; it gets blocks of bytes from Go and has a bound of
// memory.
//
// It owns the module, its instances and the translation of rules, matches and
// errors. It never opens a file or a process: who scans says where bytes come
// from (Target). It knows nothing of queries.
//
// Main walk: New, Engine.Compile, Rules.Scan, Rules.Close. The module is
// translated to machine code at the first Compile of an Engine, once; Compile and
// Scan take an instance each, and a few loaded ones are kept for the next scan.
//
// Locking rule: an instance is used by one call at a time. The mutexes guard lists
// of idle instances alone and are not held while one of them works.
package yara
