// Package endpoint holds the query primitives of the agent: functions, plugins
// and accessors that look at the machine they run on.
//
// It owns reading the file system, /proc, sockets and processes, running
// programs, HTTP requests made by queries, the ways out for rows and files, and
// the parsers of foreign formats, one subject a file. It never parses or runs
// queries itself, never writes but where a query says so, and never imports the
// engine: what it needs of its host are services of the session, such as
// vql.Uploader.
//
// Main walk: Functions, Plugins and Accessors list the declarations for
// vql.NewEngine and the session; each primitive opens its files through the
// accessor that the call names, charges an op per file, buffer or row, and emits
// rows as it finds them. Missing input is one log line and no result.
//
// yara and proc_yara scan with package vql/yara, whose engine the whole process
// shares; compiled rules belong to the session. What a build does not have is not
// declared, so that version(plugin=...) is NULL, which is how artifacts ask.
//
// watch_ebpf turns the events of package vql/endpoint/ebpf into rows. Where the
// kernel cannot run its programs, it is declared and not available.
//
// Files may be written by an attacker. Parsers of foreign formats are ours where a
// library's could end the process or never end (ADR 18); each has budgets for
// work, depth and memory, tells damage in the log, and is fuzzed. What belongs to
// other systems is declared in elsewhere.go: known by name, and nowhere available.
//
// Rows leave through forward (forward.go): elastic_upload and its siblings are
// targets that encode rows and post batches. Rows are delivered at least once
// while the query runs and for five seconds after it was cancelled; a full buffer
// makes the query wait; a row that is given up is counted, in a result row and in
// the log. Nothing outlives the process: there is no spool. Files leave through
// sendFile (upload_remote.go), one part in memory, each part sent again when its
// failure is a passing one. All of them ask through outbound (outbound.go), which
// follows no redirect and keeps URLs, which may hold secrets, out of errors.
//
// Locking rule: primitives share nothing but caches that live in the session
// (Scope.Cache) or that the process fills once; their mutexes guard maps alone
// and are never held while reading a file or calling back. A file that
// parse_binary keeps open has a mutex of its own, held while it is read, and the
// table of these files is locked last. A file that watch_syslog follows is read by
// one query at a time, by turns; its mutex guards the lines alone.
package endpoint
