package vql

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"

	"www.velocidex.com/golang/vfilter/types"
)

// maxJSONDepth is how deep containers are written; deeper ones are null. Values
// that are still lazy are null at any depth: Scope.Run has evaluated what its
// rows hold.
const maxJSONDepth = 200

// JSON writes values as the language's JSON. The zero value writes times in UTC.
type JSON struct {
	// Location is the zone of times; nil is UTC.
	Location *time.Location
}

// AppendJSON appends a value's JSON to dst: keys in order, times in RFC 3339 with
// up to nanoseconds in UTC, infinities and NaN as null, bytes in base64, bytes of
// strings that are no UTF-8 as U+FFFD. It never fails: what has no JSON is null.
func AppendJSON(dst []byte, v Value) []byte { return (&JSON{}).Append(dst, v) }

// AppendJSON is the function AppendJSON with times in the scope's zone, and with
// lazy values evaluated.
func (s *Scope) AppendJSON(dst []byte, v Value) []byte {
	return s.JSON().Append(dst, s.Real(s.session.context(), v))
}

// JSON returns a writer for the scope's zone, to be kept for many rows.
func (s *Scope) JSON() *JSON { return &JSON{Location: s.Location()} }

// Append appends a value's JSON to dst.
func (j *JSON) Append(dst []byte, v Value) []byte { return j.value(dst, v, 0) }

// AppendLine appends a row's JSON and a line end.
func (j *JSON) AppendLine(dst []byte, row *Dict) []byte {
	return append(j.value(dst, row, 0), '\n')
}

func (j *JSON) value(dst []byte, v any, depth int) []byte {
	switch t := v.(type) {
	case nil, types.Null, *types.Null:
		return append(dst, "null"...)
	case string:
		return appendText(dst, t)
	case bool:
		return strconv.AppendBool(dst, t)
	case int64:
		return strconv.AppendInt(dst, t, 10)
	case int:
		return strconv.AppendInt(dst, int64(t), 10)
	case uint64:
		return strconv.AppendUint(dst, t, 10)
	case float64:
		return appendFloat(dst, t)
	case *Dict:
		return j.dict(dst, t, depth)
	case []any:
		return j.list(dst, t, depth)
	case time.Time:
		return j.time(dst, t)
	case *time.Time:
		if t == nil {
			return append(dst, "null"...)
		}
		return j.time(dst, *t)
	case []byte:
		return appendBytes(dst, t)
	case []string:
		return j.strings(dst, t)
	}
	return j.other(dst, v, depth)
}

func (j *JSON) dict(dst []byte, d *Dict, depth int) []byte {
	if d == nil || depth > maxJSONDepth {
		return append(dst, "null"...)
	}
	dst = append(dst, '{')
	for i, item := range d.Items() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendText(dst, item.Key), ':')
		dst = j.value(dst, item.Value, depth+1)
	}
	return append(dst, '}')
}

func (j *JSON) list(dst []byte, list []any, depth int) []byte {
	if list == nil || depth > maxJSONDepth {
		return append(dst, "null"...)
	}
	dst = append(dst, '[')
	for i, item := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = j.value(dst, item, depth+1)
	}
	return append(dst, ']')
}

func (j *JSON) strings(dst []byte, list []string) []byte {
	if list == nil {
		return append(dst, "null"...)
	}
	dst = append(dst, '[')
	for i, item := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendText(dst, item)
	}
	return append(dst, ']')
}

func (j *JSON) time(dst []byte, t time.Time) []byte {
	loc := j.Location
	if loc == nil {
		loc = time.UTC
	}
	dst = append(dst, '"')
	dst = t.In(loc).AppendFormat(dst, time.RFC3339Nano)
	return append(dst, '"')
}

// appendBytes gives base64; nil is null.
func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

// other writes what is no plain value.
func (j *JSON) other(dst []byte, v any, depth int) []byte {
	switch t := v.(type) {
	case *Path:
		return appendText(dst, t.String())
	case json.Number:
		return appendMarshal(dst, t)
	}
	switch v.(type) {
	case *materialised, *scopeValue:
	default:
		if mayBeLazy(v) {
			return append(dst, "null"...)
		}
	}
	if _, ok := v.(json.Marshaler); ok {
		return appendMarshal(dst, v)
	}
	if _, ok := v.(encoding.TextMarshaler); ok {
		return appendMarshal(dst, v)
	}
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Slice, reflect.Array:
		if r.Kind() == reflect.Slice && r.IsNil() || depth > maxJSONDepth {
			return append(dst, "null"...)
		}
		return j.reflected(dst, r, depth)
	case reflect.Float32:
		return appendFloat(dst, r.Float())
	}
	switch {
	case r.CanInt():
		return strconv.AppendInt(dst, r.Int(), 10)
	case r.CanUint():
		return strconv.AppendUint(dst, r.Uint(), 10)
	case r.Kind() == reflect.String:
		return appendText(dst, r.String())
	}
	if info, ok := v.(fs.FileInfo); ok {
		return appendText(dst, info.Name())
	}
	return appendMarshal(dst, v)
}

func (j *JSON) reflected(dst []byte, r reflect.Value, depth int) []byte {
	dst = append(dst, '[')
	for i := range r.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = j.value(dst, r.Index(i).Interface(), depth+1)
	}
	return append(dst, ']')
}

// appendMarshal leaves a host object to encoding/json; what that cannot write is
// its text, or null.
func appendMarshal(dst []byte, v any) (out []byte) {
	defer func() {
		if recover() != nil {
			out = append(dst, "null"...)
		}
	}()
	b, err := json.Marshal(v)
	if err == nil && utf8.Valid(b) {
		return append(dst, b...)
	}
	if s, ok := v.(fmt.Stringer); ok {
		return appendText(dst, s.String())
	}
	return append(dst, "null"...)
}

// appendFloat writes the shortest form, with an exponent below 1e-6 and from 1e21.
func appendFloat(dst []byte, f float64) []byte {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return append(dst, "null"...)
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	dst = strconv.AppendFloat(dst, f, format, -1, 64)
	if n := len(dst); format == 'e' && n >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// plainByte marks the ASCII bytes that stand for themselves in a JSON string.
var plainByte = func() (out [utf8.RuneSelf]bool) {
	for c := range out {
		out[c] = c >= ' ' && c != '"' && c != '\\' && c != 0x7f
	}
	return out
}()

// appendText writes a JSON string.
func appendText(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if plainByte[c] {
				i++
				continue
			}
			dst = append(dst, s[start:i]...)
			dst = appendEscape(dst, c)
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(append(dst, s[start:i]...), `\ufffd`...)
			start = i + size
		case r == '\u2028' || r == '\u2029':
			dst = append(append(dst, s[start:i]...), `\u202`...)
			dst = append(dst, hexDigits[r&0xf])
			start = i + size
		}
		i += size
	}
	return append(append(dst, s[start:]...), '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}
