package wire

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"raptorpack/proto/wirepb"
)

// Decoding multiplies: two bytes on the wire may become a message of 300 bytes
// in memory. These bounds on one element are far above what agents send (a
// million bytes of the smallest jobs have 40,000) and keep the decoded form of
// the worst element below 100 MiB.
const (
	maxMessages = 200_000
	maxFields   = 2_000_000
	maxNesting  = 16
)

var listDescriptor = (&wirepb.MessageList{}).ProtoReflect().Descriptor()

type weight struct{ messages, fields int }

// weigh counts what decoding plain as a MessageList would create, without
// creating it.
func weigh(plain []byte) error {
	var w weight
	return w.add(listDescriptor, plain, 0)
}

func (w *weight) add(d protoreflect.MessageDescriptor, message []byte, depth int) error {
	if w.messages++; w.messages > maxMessages || depth > maxNesting {
		return fmt.Errorf("%d messages, %d deep: %w", w.messages, depth, ErrTooLarge)
	}
	fields := d.Fields()
	for len(message) > 0 {
		if w.fields++; w.fields > maxFields {
			return fmt.Errorf("%d fields: %w", w.fields, ErrTooLarge)
		}
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return ErrMalformed
		}
		message = message[n:]
		n = protowire.ConsumeFieldValue(number, kind, message)
		if n < 0 {
			return ErrMalformed
		}
		if kind == protowire.BytesType {
			if err := w.inside(fields.ByNumber(number), message[:n], depth); err != nil {
				return err
			}
		}
		message = message[n:]
	}
	return nil
}

// inside weighs a length-delimited field: a message, or packed numbers, which
// take eight bytes each.
func (w *weight) inside(f protoreflect.FieldDescriptor, value []byte, depth int) error {
	switch {
	case f == nil:
		return nil
	case f.Kind() == protoreflect.MessageKind:
		inner, _ := protowire.ConsumeBytes(value)
		return w.add(f.Message(), inner, depth+1)
	case f.IsList() && f.Kind() != protoreflect.StringKind && f.Kind() != protoreflect.BytesKind:
		w.fields += len(value)
	}
	return nil
}
