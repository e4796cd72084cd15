package endpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz/lzma"
)

var errCut = errors.New("it is longer than is read, and cut")

// expandField undoes a field's compression, up to limit bytes.
func expandField(flags byte, data []byte, limit int) ([]byte, error) {
	var r io.Reader
	switch flags & (compressedXZ | compressedLZ4 | compressedZSTD) {
	case 0:
		r = bytes.NewReader(data)
	case compressedXZ:
		x, err := openXZ(data)
		if err != nil {
			return nil, err
		}
		r = x
	case compressedZSTD:
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxJournalField))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	case compressedLZ4:
		if len(data) < 8 {
			return nil, errLZ4
		}
		size := binary.LittleEndian.Uint64(data)
		return expandLZ4(data[8:], int(min(size, uint64(limit))), size > uint64(limit))
	default:
		return nil, fmt.Errorf("unknown compression %#x", flags)
	}
	out, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if len(out) > limit {
		return out[:limit], errCut
	}
	return out, err
}

var errLZ4 = errors.New("damaged lz4 block")

// expandLZ4 decodes an LZ4 block (lz4_Block_format.md of the project lz4) into at
// most size bytes. cut says that there is more.
func expandLZ4(data []byte, size int, cut bool) ([]byte, error) {
	var out []byte
	for len(data) > 0 && len(out) < size {
		token := data[0]
		literals, rest, ok := lz4Length(int(token>>4), data[1:])
		if !ok || literals > len(rest) {
			return out, errLZ4
		}
		out = append(out, rest[:min(literals, size-len(out))]...)
		data = rest[literals:]
		if len(data) == 0 {
			break // the last sequence has no match
		}
		if len(data) < 2 {
			return out, errLZ4
		}
		offset := int(binary.LittleEndian.Uint16(data))
		match, rest, ok := lz4Length(int(token&15), data[2:])
		if !ok || offset == 0 || offset > len(out) {
			return out, errLZ4
		}
		for n := min(match+4, size-len(out)); n > 0; n-- { // may overlap what it writes
			out = append(out, out[len(out)-offset])
		}
		data = rest
	}
	switch {
	case cut:
		return out, errCut
	case len(out) < size:
		return out, errLZ4
	}
	return out, nil
}

// lz4Length reads the rest of a length that 4 bits have not enough room for.
func lz4Length(n int, data []byte) (int, []byte, bool) {
	if n < 15 {
		return n, data, true
	}
	for i, b := range data {
		n += int(b)
		if b < 255 {
			return n, data[i+1:], true
		}
	}
	return 0, nil, false
}

var errXZ = errors.New("damaged or unusual xz stream")

// openXZ reads the first block of an xz stream (xz-file-format.txt of the project
// xz), which is all that the journal writes. The library would take the size of the
// dictionary from the file, up to 4 GiB; ours need not be longer than the text.
func openXZ(data []byte) (io.Reader, error) {
	const streamHead = 12
	if len(data) < streamHead+8 || string(data[:6]) != "\xfd7zXZ\x00" {
		return nil, errXZ
	}
	block := data[streamHead:]
	size := (int(block[0]) + 1) * 4
	if block[0] == 0 || size > len(block) || block[1]&3 != 0 {
		return nil, errXZ
	}
	fields := block[2:size]
	for _, present := range []byte{0x40, 0x80} { // lengths of the block
		if block[1]&present != 0 {
			_, n := binary.Uvarint(fields)
			if n <= 0 {
				return nil, errXZ
			}
			fields = fields[n:]
		}
	}
	if len(fields) < 3 || fields[0] != 0x21 || fields[1] != 1 { // not LZMA2
		return nil, errXZ
	}
	return lzma.Reader2Config{DictCap: maxJournalField}.NewReader2(bytes.NewReader(block[size:]))
}
