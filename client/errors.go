package client

import "errors"

var (
	// ErrWriteback means that the writeback exists and cannot be read as one.
	// The agent does not start: a new identity would make the machine a
	// stranger to its server. Restore the file, or remove it on purpose.
	ErrWriteback = errors.New("writeback is unreadable")

	// ErrInUse means that another process uses the same buffer folder.
	ErrInUse = errors.New("another agent is running")

	// ErrBroken means that the buffer's disk failed in a way after which its
	// content is unknown. A restart recovers what was durable.
	ErrBroken = errors.New("local buffer is broken")

	// ErrClosed means that the buffer was closed.
	ErrClosed = errors.New("local buffer is closed")

	// ErrCancelled means that the flow was cancelled by the server; its rows
	// are no longer taken.
	ErrCancelled = errors.New("flow is cancelled")

	// ErrNotRepeatable means that a flow that a crash interrupted gave other
	// rows when it was run again, so that its rest cannot be joined to what is
	// already delivered.
	ErrNotRepeatable = errors.New("interrupted and not repeatable")

	// ErrKilled means that the server told this agent to exit.
	ErrKilled = errors.New("server told the agent to exit")

	// ErrRekeyed means that a query had the agent throw its key away. It is to be
	// started again, as another client.
	ErrRekeyed = errors.New("the agent threw its key away")

	// ErrStalled means that the conversation with the server made no progress
	// for the watchdog's time. The agent should be started again.
	ErrStalled = errors.New("no progress in communication")

	// ErrMemory means that the agent holds more memory than its hard limit.
	ErrMemory = errors.New("memory limit exceeded")
)
