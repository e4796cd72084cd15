package endpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"raptorpack/vql"
)

// The format is described by Microsoft's [MS-EVEN6] (binary XML) and by the
// documentation of the project libevtx (files and chunks).
const (
	evtxMagic      = "ElfFile\x00"
	evtxChunkMagic = "ElfChnk\x00"
	evtxHeaderSize = 4096
	evtxChunkSize  = 64 << 10
	evtxChunkHead  = 512 // bytes before the first record of a chunk
	evtxRecordHead = 24
)

var errNotEvtx = errors.New("not a Windows event log")

type evtxArgs struct {
	Filename  []*vql.Path `vql:"filename,required" doc:"The event logs."`
	Accessor  string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
	MessageDB string      `vql:"messagedb" doc:"An SQLite database of messages, with the tables providers and messages."`
	Workers   int64       `vql:"workers" doc:"Chunks to parse at the same time (1)."`
}

const maxEvtxWorkers = 16

var parseEvtxPlugin = vql.NewPlugin(vql.Spec{
	Name: "parse_evtx", Permission: "FILESYSTEM_READ",
	Doc:     "Gives the events of Windows event logs. Damaged records and chunks are log lines.",
	Columns: []string{"System", "EventData", "UserData", "Message"},
}, func(ctx context.Context, scope *vql.Scope, args *evtxArgs, emit vql.Emit) error {
	messages, err := openMessages(ctx, scope, args.MessageDB)
	if err != nil {
		scope.Log(vql.LevelWarn, "parse_evtx: events come without messages: %v", err)
	}
	defer messages.close(scope)
	workers := int(min(max(args.Workers, 1), maxEvtxWorkers))
	emit = stopping(emit)
	return eachFile(ctx, scope, "parse_evtx", args.Accessor, args.Filename, func(path *vql.Path, file vql.ReadSeekCloser) error {
		return eachEvent(ctx, scope, path, file, workers, func(event *vql.Dict) error {
			messages.describe(ctx, scope, event)
			return emit(event)
		})
	})
})

// eachEvent hands on the events of a file in their order. Chunks are independent of
// each other, so that several can be parsed at a time.
func eachEvent(ctx context.Context, scope *vql.Scope, path *vql.Path, file io.ReadSeeker, workers int, each func(*vql.Dict) error) error {
	at, err := evtxStart(file)
	if err != nil {
		return err
	}
	var parsing sync.WaitGroup
	defer parsing.Wait()
	var pending []chan evtxParsed // in the order of the file
	take := func(keep int) error {
		for len(pending) > keep {
			parsed := <-pending[0]
			pending = pending[1:]
			if parsed.trouble != "" {
				scope.Log(vql.LevelWarn, "parse_evtx: %s: %s", shown(path), parsed.trouble)
			}
			for _, event := range parsed.events {
				if err := each(event); err != nil {
					return err
				}
			}
		}
		return nil
	}
	err = readChunks(ctx, scope, path, file, at, func(data []byte, at int64) error {
		answer := make(chan evtxParsed, 1) // gets one answer: never full
		pending = append(pending, answer)
		parsing.Go(func() { answer <- parseChunk(data, at) })
		return take(workers - 1)
	})
	if err != nil {
		return err
	}
	return take(0)
}

// evtxStart checks the header of a file and returns where its chunks begin.
func evtxStart(file io.ReadSeeker) (int64, error) {
	header := make([]byte, 128)
	if _, err := io.ReadFull(file, header); err != nil || string(header[:8]) != evtxMagic {
		return 0, errNotEvtx
	}
	if major := binary.LittleEndian.Uint16(header[38:]); major != 3 {
		return 0, fmt.Errorf("version %d of event logs is not supported", major)
	}
	if size := binary.LittleEndian.Uint16(header[40:]); size >= 128 {
		return int64(size), nil
	}
	return evtxHeaderSize, nil
}

// readChunks hands on chunk after chunk, in memory of its own.
func readChunks(ctx context.Context, scope *vql.Scope, path *vql.Path, file io.ReadSeeker, at int64, each func(data []byte, at int64) error) error {
	if _, err := file.Seek(at, io.SeekStart); err != nil {
		return err
	}
	for ; ; at += evtxChunkSize {
		if err := scope.Charge(ctx); err != nil {
			return emitError{err}
		}
		data := make([]byte, evtxChunkSize)
		n, err := io.ReadFull(file, data)
		if errors.Is(err, io.EOF) {
			return nil
		}
		last := errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		if data = data[:n]; isEvtxChunk(data) {
			if err := each(data, at); err != nil {
				return err
			}
		} else if len(bytes.Trim(data, "\x00")) > 0 {
			scope.Log(vql.LevelWarn, "parse_evtx: %s: what lies at %d is no chunk", shown(path), at)
		}
		if last {
			return nil
		}
	}
}

func isEvtxChunk(data []byte) bool {
	return len(data) > evtxChunkHead && string(data[:8]) == evtxChunkMagic
}

// evtxParsed is what a chunk gave.
type evtxParsed struct {
	events  []*vql.Dict
	records []uint64 // the numbers of the events
	trouble string   // "" for none
}

// parseChunk parses the records of a chunk. It never panics: it runs where nobody
// could recover.
func parseChunk(data []byte, at int64) (out evtxParsed) {
	damaged := 0
	var first error
	defer func() {
		if r := recover(); r != nil {
			damaged, first = damaged+1, fmt.Errorf("panic: %v", r)
		}
		if damaged > 0 {
			out.trouble = fmt.Sprintf("chunk at %d: %d places are damaged, the first: %v", at, damaged, first)
		}
	}()
	chunk := &evtxChunk{data: data, budget: evtxBudget, templates: map[int]*xmlTemplate{}}
	used := int(binary.LittleEndian.Uint32(data[48:])) // where free space begins
	for at := evtxChunkHead; ; {
		size, err := recordSize(data, at)
		if err != nil {
			if at < used && used <= len(data) {
				if damaged++; first == nil {
					first = err
				}
				if at = nextRecord(data, at+8); at < used {
					continue
				}
			}
			return out
		}
		event, err := chunk.event(at+evtxRecordHead, at+size-4)
		switch {
		case errors.Is(err, errEvtxBudget):
			damaged, first = damaged+1, err
			return out
		case err != nil:
			if damaged++; first == nil {
				first = fmt.Errorf("record %d: %w", binary.LittleEndian.Uint64(data[at+8:]), err)
			}
		default:
			out.events = append(out.events, event)
			out.records = append(out.records, binary.LittleEndian.Uint64(data[at+8:]))
		}
		at += size
	}
}

var errNoRecord = errors.New("no record where one should be")

// recordSize is the length of the record at a place.
func recordSize(data []byte, at int) (int, error) {
	if at+evtxRecordHead+4 > len(data) || string(data[at:at+4]) != "**\x00\x00" {
		return 0, errNoRecord
	}
	size := int64(binary.LittleEndian.Uint32(data[at+4:]))
	if size < evtxRecordHead+4 || size > int64(len(data)-at) || int64(binary.LittleEndian.Uint32(data[at+int(size)-4:])) != size {
		return 0, errNoRecord
	}
	return int(size), nil
}

// nextRecord finds the next whole record after damage; records begin at multiples
// of 8 bytes.
func nextRecord(data []byte, at int) int {
	for at = (at + 7) &^ 7; at < len(data); at += 8 {
		if _, err := recordSize(data, at); err == nil {
			break
		}
	}
	return at
}
