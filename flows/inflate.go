package flows

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/semaphore"

	"raptorpack/internal/inflate"
	"raptorpack/proto/wirepb"
)

const (
	// maxInflated bounds one compressed part of a packet, in plain bytes.
	maxInflated = 64 << 20

	// maxPacketInflated bounds all of a packet's parts together.
	maxPacketInflated = 128 << 20

	// smallInflated is what a packet of an honest agent hardly exceeds. Those
	// beyond share memory of their own, so that they cannot hold up the others.
	smallInflated = 8 << 20

	smallMemory = 128 << 20 // bytes of small packets that are inflated at a time
	largeMemory = 256 << 20 // and of large ones, at least maxPacketInflated

	// deflateRatio is more than deflate can reach (RFC 1951: 1032 to 1).
	deflateRatio = 1100
)

// errInflate means that compressed bytes are damaged, or not as long as said.
var errInflate = errors.New("compressed bytes are not what they claim")

// inflateMemory bounds what all packets that are taken in at the same time may
// inflate to: a few kilobytes of a hostile client become a thousand times as much.
type inflateMemory struct{ small, large *semaphore.Weighted }

func newInflateMemory() inflateMemory {
	return inflateMemory{semaphore.NewWeighted(smallMemory), semaphore.NewWeighted(largeMemory)}
}

// reserve waits for room for a whole packet, so that no two packets that hold a
// part wait for each other.
func (m inflateMemory) reserve(ctx context.Context, size int64) (release func(), err error) {
	from := m.small
	if size > smallInflated {
		from = m.large
	}
	if err := from.Acquire(ctx, size); err != nil {
		return nil, fmt.Errorf("room to inflate %d bytes: %w", size, context.Cause(ctx))
	}
	return func() { from.Release(size) }, nil
}

// declaredBytes is what the compressed parts of messages may inflate to: what
// they declare, within the bounds that inflate holds them to.
func declaredBytes(messages []*wirepb.VeloMessage) int64 {
	var sum int64
	for _, m := range messages {
		add := func(data []byte, declared uint64, limit int64) {
			if declared <= uint64(limit) && declared <= uint64(len(data))*deflateRatio {
				sum = min(sum+int64(declared), maxPacketInflated)
			}
		}
		add(m.GetVqlResponse().GetCompressedJsonResponse(), m.GetVqlResponse().GetUncompressedSize(), maxInflated)
		add(m.GetFileBuffer().GetData(), m.GetFileBuffer().GetUncompressedLength(), maxBuffer)
	}
	return sum
}

// inflate gives the plain bytes of zlib data whose length the client declares.
// Memory is only taken for what the data can hold.
func (p *packet) inflate(data []byte, declared uint64, limit int64) ([]byte, error) {
	if declared == 0 || declared > uint64(limit) || declared > uint64(len(data))*deflateRatio {
		return nil, fmt.Errorf("%d bytes said to be %d: %w", len(data), declared, errInflate)
	}
	if p.inflated += int64(declared); p.inflated > maxPacketInflated {
		return nil, fmt.Errorf("packet beyond %d bytes: %w", maxPacketInflated, errInflate)
	}
	z, err := inflate.NewReader(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInflate, err)
	}
	defer z.Close()
	out := make([]byte, declared)
	if _, err := io.ReadFull(z, out); err != nil {
		return nil, fmt.Errorf("%w: %w", errInflate, err)
	}
	// One read more: the end has to be there, with the right checksum.
	if n, err := z.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, fmt.Errorf("longer than %d bytes: %w", declared, errInflate)
	}
	return out, nil
}
