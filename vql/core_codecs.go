package vql

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
)

func codecFunctions() []*Function {
	return []*Function{
		NewFunction(Spec{Name: "base64encode", Doc: "Encodes a string in base64."}, base64encodeFunction),
		NewFunction(Spec{Name: "base64decode", Doc: "Decodes base64; NULL when it is none."}, base64decodeFunction),
		NewFunction(Spec{Name: "unhex", Doc: "Decodes hex, with or without 0x."}, unhexFunction),
		NewFunction(Spec{Name: "utf16", Doc: "Decodes little-endian UTF-16."}, utf16Function),
		NewFunction(Spec{Name: "utf16_encode", Doc: "Encodes a string in little-endian UTF-16."}, utf16encodeFunction),
		NewFunction(Spec{Name: "xor", Doc: "Combines a string with a repeated key by exclusive or."}, xorFunction),
	}
}

func base64encodeFunction(_ context.Context, _ *Scope, args *textArgs) (Value, error) {
	return base64.StdEncoding.EncodeToString([]byte(args.String)), nil
}

func base64decodeFunction(_ context.Context, _ *Scope, args *textArgs) (Value, error) {
	text := strings.TrimRight(args.String, "=")
	out, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return string(out), nil
}

type unhexArgs struct {
	String string `vql:"string" doc:"The hex digits."`
}

func unhexFunction(_ context.Context, _ *Scope, args *unhexArgs) (Value, error) {
	text := strings.TrimPrefix(strings.TrimPrefix(args.String, "0x"), "0X")
	if len(text)%2 == 1 {
		text = "0" + text
	}
	out, err := hex.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return string(out), nil
}

func utf16Function(_ context.Context, _ *Scope, args *textArgs) (Value, error) {
	return decodeUTF16(args.String), nil
}

// decodeUTF16 reads little-endian, or what a byte order mark says; an odd last
// byte is dropped.
func decodeUTF16(text string) string {
	b := []byte(text)
	var order binary.ByteOrder = binary.LittleEndian
	if len(b) >= 2 {
		switch {
		case b[0] == 0xff && b[1] == 0xfe:
			b = b[2:]
		case b[0] == 0xfe && b[1] == 0xff:
			b, order = b[2:], binary.BigEndian
		}
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = order.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}

func utf16encodeFunction(_ context.Context, _ *Scope, args *textArgs) (Value, error) {
	units := utf16.Encode([]rune(args.String))
	out := make([]byte, 0, 2*len(units))
	for _, u := range units {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return string(out), nil
}

type xorArgs struct {
	String string `vql:"string,required" doc:"The string."`
	Key    string `vql:"key,required" doc:"The key, repeated as needed."`
}

func xorFunction(_ context.Context, _ *Scope, args *xorArgs) (Value, error) {
	if args.Key == "" {
		return nil, errors.New("the key is empty")
	}
	out := []byte(args.String)
	for i := range out {
		out[i] ^= args.Key[i%len(args.Key)]
	}
	return string(out), nil
}
