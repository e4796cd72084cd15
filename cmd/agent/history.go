package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"github.com/klauspost/compress/zlib"
	"google.golang.org/protobuf/proto"

	"raptorpack/proto/wirepb"
)

// Acknowledged is a line of an agent's history: something that a server said was
// durable. Tests compare histories with what a store holds.
type Acknowledged struct {
	Flow   string `json:"flow"`
	Kind   string `json:"kind"` // rows, upload, end
	Name   string `json:"name,omitempty"`
	First  int64  `json:"first"` // row or byte
	Count  int64  `json:"count"` // rows or bytes
	CRC    uint32 `json:"crc"`   // CRC-32C of the plain bytes
	Number int64  `json:"upload,omitempty"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// History appends what was acknowledged to a file. It is for tests: it inflates
// what was just deflated.
type History struct {
	mu   sync.Mutex
	file *os.File
}

// OpenHistory opens a history for appending, making it if it is not there.
func OpenHistory(path string) (*History, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	return &History{file: file}, nil
}

// Take is what client.Options.Acknowledged wants. A history that cannot be
// written makes the test worthless, so it ends the process.
func (h *History) Take(messages [][]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out bytes.Buffer
	for _, raw := range messages {
		line, err := describe(raw)
		if err != nil {
			panic(fmt.Sprintf("history: %v", err))
		}
		if line == nil {
			continue
		}
		text, err := json.Marshal(line)
		if err != nil {
			panic(fmt.Sprintf("history: %v", err))
		}
		out.Write(append(text, '\n'))
	}
	if _, err := h.file.Write(out.Bytes()); err != nil {
		panic(fmt.Sprintf("history: %v", err))
	}
}

func describe(raw []byte) (*Acknowledged, error) {
	var m wirepb.VeloMessage
	if err := proto.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	switch {
	case m.GetVqlResponse() != nil:
		r := m.GetVqlResponse()
		rows := []byte(r.GetJsonlResponse())
		if r.GetUncompressedSize() > 0 {
			var err error
			if rows, err = inflate(r.GetCompressedJsonResponse()); err != nil {
				return nil, err
			}
		}
		return &Acknowledged{
			Flow: m.GetSessionId(), Kind: "rows", Name: r.GetQuery().GetName(), First: int64(r.GetQueryStartRow()),
			Count: int64(r.GetTotalRows()), CRC: crc32.Checksum(rows, castagnoli),
		}, nil
	case m.GetFileBuffer() != nil:
		f := m.GetFileBuffer()
		data := f.GetData()
		if f.GetUncompressedLength() > 0 {
			var err error
			if data, err = inflate(data); err != nil {
				return nil, err
			}
		}
		return &Acknowledged{
			Flow: m.GetSessionId(), Kind: "upload", First: int64(f.GetOffset()), Count: int64(len(data)),
			CRC: crc32.Checksum(data, castagnoli), Number: f.GetUploadNumber(),
		}, nil
	case m.GetFlowStats().GetFlowComplete():
		return &Acknowledged{Flow: m.GetSessionId(), Kind: "end"}, nil
	}
	return nil, nil
}

func inflate(data []byte) ([]byte, error) {
	r, err := zlib.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
