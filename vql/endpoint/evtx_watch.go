package endpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"raptorpack/vql"
)

var watchEvtxPlugin = vql.NewPlugin(vql.Spec{
	Name: "watch_evtx", Permission: "FILESYSTEM_READ",
	Doc:     "Gives new events of Windows event logs as they are written.",
	Columns: []string{"System", "EventData", "UserData", "Message"},
}, func(ctx context.Context, scope *vql.Scope, args *evtxArgs, emit vql.Emit) error {
	messages, err := openMessages(ctx, scope, args.MessageDB)
	if err != nil {
		scope.Log(vql.LevelWarn, "watch_evtx: events come without messages: %v", err)
	}
	defer messages.close(scope)
	emit = stopping(emit)
	period := watchPeriod
	if seconds := scope.LookupInt("EVTX_FREQUENCY", 0); seconds > 0 {
		period = time.Duration(min(seconds, maxWatchSeconds)) * time.Second
	}
	last := make([]uint64, len(args.Filename)) // the newest record of each file
	for fresh := true; ; fresh = false {
		for i, path := range args.Filename {
			newest, err := pollEvtx(ctx, scope, args.Accessor, path, last[i], fresh, func(event *vql.Dict) error {
				messages.describe(ctx, scope, event)
				return emit(event)
			})
			if done, err := fileDone(ctx, scope, "watch_evtx", path, err); done {
				return err
			}
			last[i] = newest
		}
		if err := pause(ctx, period); err != nil {
			return err
		}
	}
})

// maxWatchSeconds bounds what the variable EVTX_FREQUENCY asks for.
const maxWatchSeconds = 24 * 3600

// pollEvtx hands on the events of a file that are newer than a record, and returns
// the newest; at first all are old. A file that ends before that record was
// cleared, and is new.
func pollEvtx(ctx context.Context, scope *vql.Scope, accessor string, path *vql.Path, since uint64, fresh bool, each func(*vql.Dict) error) (uint64, error) {
	file, err := openThrough(ctx, scope, accessor, path)
	if err != nil {
		return since, err
	}
	defer file.Close()
	at, err := evtxStart(file)
	if err != nil {
		return since, err
	}
	newest, err := newestRecord(ctx, scope, file, at)
	if err != nil {
		return since, err
	}
	if fresh || newest == since {
		return newest, nil
	}
	if newest < since {
		since = 0
	}
	return newest, readChunks(ctx, scope, path, file, at, func(data []byte, at int64) error {
		if last := lastRecord(data); last <= since || last == ^uint64(0) {
			return nil
		}
		parsed := parseChunk(data, at)
		if parsed.trouble != "" {
			scope.Log(vql.LevelWarn, "watch_evtx: %s: %s", shown(path), parsed.trouble)
		}
		for i, event := range parsed.events {
			if parsed.records[i] <= since || parsed.records[i] > newest {
				continue
			}
			if err := each(event); err != nil {
				return err
			}
		}
		return nil
	})
}

// lastRecord is the number of a chunk's newest record, all ones for none.
func lastRecord(chunk []byte) uint64 { return binary.LittleEndian.Uint64(chunk[32:]) }

// newestRecord looks at the heads of all chunks.
func newestRecord(ctx context.Context, scope *vql.Scope, file io.ReadSeeker, at int64) (newest uint64, err error) {
	head := make([]byte, evtxChunkHead+1)
	for n := 0; ; n++ {
		if n%16 == 0 {
			if err := scope.Charge(ctx); err != nil {
				return 0, emitError{err}
			}
		}
		if _, err := file.Seek(at+int64(n)*evtxChunkSize, io.SeekStart); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(file, head); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return newest, nil
			}
			return 0, err
		}
		if last := lastRecord(head); isEvtxChunk(head) && last != ^uint64(0) {
			newest = max(newest, last)
		}
	}
}
