package wire

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// outer is a ClientCommunication whose fields lie in the received bytes.
// Scanning it copies nothing, so that a cached session is recognised before
// anything dear happens.
type outer struct {
	encrypted []byte
	cipher    []byte
	metadata  []byte
	iv        []byte
	mac       []byte
	version   uint32
}

// empty reports whether the body holds nothing but pads: an idle answer.
func (o *outer) empty() bool { return len(o.cipher) == 0 && len(o.encrypted) == 0 }

// scanOuter reads a body, in which any number of pads may stand before and
// after the packet: concatenated messages merge, the last value counts.
func scanOuter(body []byte) (outer, error) {
	var o outer
	err := eachField(body, func(number protowire.Number, value []byte, varint uint64) {
		switch number {
		case 1:
			o.encrypted = value
		case 2:
			o.cipher = value
		case 6:
			o.version = uint32(varint)
		case 8:
			o.iv = value
		case 9:
			o.metadata = value
		case 10:
			o.mac = value
		}
	})
	if err != nil {
		return outer{}, fmt.Errorf("envelope: %w", err)
	}
	return o, nil
}

// append writes the fields in ascending order, as the stock peers do.
func (o *outer) append(dst []byte) []byte {
	dst = appendBytes(dst, 1, o.encrypted)
	dst = appendBytes(dst, 2, o.cipher)
	dst = protowire.AppendTag(dst, 6, protowire.VarintType)
	dst = protowire.AppendVarint(dst, uint64(o.version))
	dst = appendBytes(dst, 8, o.iv)
	dst = appendBytes(dst, 9, o.metadata)
	return appendBytes(dst, 10, o.mac)
}

// appendHeadFirst writes the session before the payload, so that a receiver who
// has read the head of a body knows whose it is.
func (o *outer) appendHeadFirst(dst []byte) []byte {
	dst = appendBytes(dst, 2, o.cipher)
	dst = appendBytes(dst, 9, o.metadata)
	dst = appendBytes(dst, 8, o.iv)
	dst = protowire.AppendTag(dst, 6, protowire.VarintType)
	dst = protowire.AppendVarint(dst, uint64(o.version))
	dst = appendBytes(dst, 10, o.mac)
	return appendBytes(dst, 1, o.encrypted)
}

func (o *outer) size() int {
	return len(o.encrypted) + len(o.cipher) + len(o.metadata) + len(o.iv) + len(o.mac) + 48
}

func appendBytes(dst []byte, number protowire.Number, value []byte) []byte {
	dst = protowire.AppendTag(dst, number, protowire.BytesType)
	return protowire.AppendBytes(dst, value)
}

// cipherInHead looks for the sealed cipher among the whole fields in the first
// bytes of a body.
func cipherInHead(head []byte) []byte {
	for len(head) > 0 {
		number, kind, n := protowire.ConsumeTag(head)
		if n < 0 {
			return nil
		}
		head = head[n:]
		if number == 2 && kind == protowire.BytesType {
			value, n := protowire.ConsumeBytes(head)
			if n < 0 {
				return nil
			}
			return value
		}
		n = protowire.ConsumeFieldValue(number, kind, head)
		if n < 0 {
			return nil
		}
		head = head[n:]
	}
	return nil
}

// packed is a PackedMessageList whose elements are still as they came.
type packed struct {
	lists       [][]byte
	compression uint64
	timestamp   uint64 // microseconds, sender's clock
	nonce       []byte
}

// maxElements bounds the elements of a packet: agents send a handful, of up to a
// quarter of a post each.
const maxElements = 4096

func scanPacked(plain []byte) (packed, error) {
	var p packed
	elements := 0
	err := eachField(plain, func(number protowire.Number, value []byte, varint uint64) {
		switch number {
		case 1:
			if elements++; elements <= maxElements {
				p.lists = append(p.lists, value)
			}
		case 4:
			p.compression = varint
		case 6:
			p.timestamp = varint
		case 7:
			p.nonce = value
		}
	})
	if err != nil {
		return packed{}, fmt.Errorf("message list: %w", err)
	}
	if elements > maxElements {
		return packed{}, fmt.Errorf("message list of %d elements: %w", elements, ErrMalformed)
	}
	return p, nil
}

// eachField walks over the fields of a message; unknown ones are passed too.
func eachField(message []byte, take func(protowire.Number, []byte, uint64)) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return ErrMalformed
		}
		message = message[n:]
		switch kind {
		case protowire.BytesType:
			value, n := protowire.ConsumeBytes(message)
			if n < 0 {
				return ErrMalformed
			}
			take(number, value, 0)
			message = message[n:]
		case protowire.VarintType:
			value, n := protowire.ConsumeVarint(message)
			if n < 0 {
				return ErrMalformed
			}
			take(number, nil, value)
			message = message[n:]
		default:
			n := protowire.ConsumeFieldValue(number, kind, message)
			if n < 0 {
				return ErrMalformed
			}
			message = message[n:]
		}
	}
	return nil
}
