package vql

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strings"
	"text/template"
)

// MaxText is the longest string that one operator or primitive makes, in bytes.
const MaxText = 100_000_000

// ErrTooLong means that a primitive would have made a string beyond MaxText.
var ErrTooLong = fmt.Errorf("the text exceeds %d bytes", MaxText)

// maxVerbWidth is the largest width and precision that fmt obeys; larger ones are
// printed as mistakes.
const maxVerbWidth = 1_000_000

// formatSize returns how long the result of a format may become when all arguments
// together print that long, in one of them at the most.
func formatSize(format string, arguments int64) int64 {
	const escaped = 4 // bytes that %q and %x make of one, and more
	size := int64(len(format)) + escaped*arguments
	indexed := strings.Contains(format, "[")
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			continue
		}
		if indexed { // %[1]s may stand there any number of times
			size += escaped * arguments
		}
		for i++; i < len(format) && strings.IndexByte("+-# 0123456789.*[]", format[i]) >= 0; i++ {
			digits := len(format[i:]) - len(strings.TrimLeft(format[i:], "0123456789"))
			switch {
			case format[i] == '*', digits > 7:
				size += maxVerbWidth
			case digits > 0:
				size += min(number(format[i:i+digits]), maxVerbWidth)
			}
			i += max(digits-1, 0)
		}
	}
	return size
}

func number(digits string) (n int64) {
	for i := range len(digits) {
		n = n*10 + int64(digits[i]-'0')
	}
	return n
}

// sizeOfText measures what formatted values print as; numbers and the like are
// given a number's length.
func sizeOfText(values []any) (size int64) {
	for _, v := range values {
		size += 32
		switch t := v.(type) {
		case string:
			size += int64(len(t))
		case []byte:
			size += 4 * int64(len(t))
		case formatted:
			size += int64(len(t.text))
		}
	}
	return size
}

// maxTemplateValue bounds what functions in templates take and give, in bytes.
const maxTemplateValue = 16 << 20

var errTemplateValue = errors.New("a value of the template is too large")

// openEnded are the template functions that make more than a little of little:
// each tells how much at the most. The arguments are those of Sprig, in its order.
var openEnded = map[string]func(a arguments) float64{
	"repeat":                     func(a arguments) float64 { return a.number(0) * a.size(1) },
	"until":                      func(a arguments) float64 { return a.number(0) * valueSize },
	"untilStep":                  func(a arguments) float64 { return (a.number(1) + a.number(0)) * valueSize },
	"seq":                        func(a arguments) float64 { return a.numbers() * valueSize },
	"randAlphaNum":               func(a arguments) float64 { return a.number(0) },
	"randAlpha":                  func(a arguments) float64 { return a.number(0) },
	"randAscii":                  func(a arguments) float64 { return a.number(0) },
	"randNumeric":                func(a arguments) float64 { return a.number(0) },
	"randBytes":                  func(a arguments) float64 { return a.number(0) },
	"indent":                     func(a arguments) float64 { return a.number(0) * a.lines(1) },
	"nindent":                    func(a arguments) float64 { return a.number(0) * a.lines(1) },
	"replace":                    func(a arguments) float64 { return a.count(2, 0) * a.size(1) },
	"wrapWith":                   func(a arguments) float64 { return a.size(1) * a.size(2) },
	"join":                       func(a arguments) float64 { return a.size(0) * a.size(1) / valueSize },
	"splitList":                  func(a arguments) float64 { return a.count(1, 0) * valueSize },
	"split":                      func(a arguments) float64 { return a.count(1, 0) * 8 * valueSize },
	"regexSplit":                 func(a arguments) float64 { return a.size(1) * valueSize },
	"mustRegexSplit":             func(a arguments) float64 { return a.size(1) * valueSize },
	"regexFindAll":               func(a arguments) float64 { return a.size(1) * valueSize },
	"mustRegexFindAll":           func(a arguments) float64 { return a.size(1) * valueSize },
	"regexReplaceAll":            func(a arguments) float64 { return a.size(1) * a.size(2) },
	"mustRegexReplaceAll":        func(a arguments) float64 { return a.size(1) * a.size(2) },
	"regexReplaceAllLiteral":     func(a arguments) float64 { return a.size(1) * a.size(2) },
	"mustRegexReplaceAllLiteral": func(a arguments) float64 { return a.size(1) * a.size(2) },
	"printf": func(a arguments) float64 {
		return float64(formatSize(a.text(0), int64(a.all())))
	},
}

// boundFunctions puts bounds around the functions of a template, its own printing
// ones too, so that a short text cannot fill the memory or print for ever.
func boundFunctions(functions map[string]any) map[string]any {
	out := map[string]any{
		"print": boundFunction("print", fmt.Sprint), "printf": boundFunction("printf", fmt.Sprintf),
		"println": boundFunction("println", fmt.Sprintln), "html": boundFunction("html", template.HTMLEscaper),
		"js": boundFunction("js", template.JSEscaper), "urlquery": boundFunction("urlquery", template.URLQueryEscaper),
	}
	for name, f := range functions {
		out[name] = boundFunction(name, f)
	}
	return out
}

func boundFunction(name string, f any) any {
	v := reflect.ValueOf(f)
	t := v.Type()
	in := make([]reflect.Type, t.NumIn())
	for i := range in {
		in[i] = t.In(i)
	}
	failure := reflect.TypeFor[error]()
	call, estimate := v.Call, openEnded[name]
	if t.IsVariadic() {
		call = v.CallSlice
	}
	bounded := reflect.FuncOf(in, []reflect.Type{t.Out(0), failure}, t.IsVariadic())
	return reflect.MakeFunc(bounded, func(args []reflect.Value) []reflect.Value {
		refused := []reflect.Value{reflect.Zero(t.Out(0)), reflect.ValueOf(&errTemplateValue).Elem()}
		a := arguments(args)
		if a.all() > maxTemplateValue || estimate != nil && estimate(a) > maxTemplateValue {
			return refused
		}
		out := call(args)
		if measured(out[0], maxTemplateValue, 0) < 0 {
			return refused
		}
		if len(out) == 1 {
			out = append(out, reflect.Zero(failure))
		}
		return out
	}).Interface()
}

// valueSize is what a value takes beside its text, in bytes.
const valueSize = 16

// measured takes the size of a value off left; below 0 it is too large. A part
// counts as often as it can be reached; too deep, as in a circle, is too large.
func measured(v reflect.Value, left int64, depth int) int64 {
	left -= valueSize
	if left < 0 || depth > maxDepth {
		return -1
	}
	switch v.Kind() {
	case reflect.String:
		return left - int64(v.Len())
	case reflect.Interface, reflect.Pointer:
		if !v.IsNil() {
			return measured(v.Elem(), left, depth+1)
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return left - int64(v.Len())
		}
		for i := 0; i < v.Len() && left >= 0; i++ {
			left = measured(v.Index(i), left, depth+1)
		}
	case reflect.Map:
		for each := v.MapRange(); left >= 0 && each.Next(); {
			if left = measured(each.Key(), left, depth+1); left >= 0 {
				left = measured(each.Value(), left, depth+1)
			}
		}
	}
	return left
}

// arguments are those of one call in a template. Missing ones, and those of other
// types, count as nothing: the function itself says what is wrong with them.
type arguments []reflect.Value

func (a arguments) text(i int) string {
	if i < len(a) && a[i].Kind() == reflect.String {
		return a[i].String()
	}
	return ""
}

func (a arguments) number(i int) float64 {
	if i < len(a) && a[i].CanInt() {
		return math.Abs(float64(a[i].Int()))
	}
	return 0
}

// numbers is the sum of the variadic argument that holds all of them.
func (a arguments) numbers() (sum float64) {
	if len(a) == 1 && a[0].Kind() == reflect.Slice {
		for i := range a[0].Len() {
			sum += arguments{a[0].Index(i)}.number(0)
		}
	}
	return sum
}

func (a arguments) size(i int) float64 {
	if i >= len(a) {
		return 0
	}
	return float64(maxTemplateValue + 1 - max(measured(a[i], maxTemplateValue+1, 0), 0))
}

func (a arguments) all() (sum float64) {
	for i := range a {
		sum += a.size(i)
	}
	return sum
}

func (a arguments) lines(i int) float64 { return float64(strings.Count(a.text(i), "\n") + 1) }

func (a arguments) count(in, what int) float64 {
	return float64(strings.Count(a.text(in), a.text(what)) + 1)
}

// ReplaceAll is re.ReplaceAllString, but ErrTooLong in place of a text beyond
// MaxText.
func ReplaceAll(re *regexp.Regexp, text, with string) (string, error) {
	if (float64(len(text))+1)*(float64(len(with))+1) > MaxText {
		matches, matched := 0, 0
		_ = re.ReplaceAllStringFunc(text, func(match string) string { // only counts
			matches++
			matched += len(match)
			return ""
		})
		size := float64(len(text)) + float64(matches)*float64(len(with)) + float64(matched)*float64(strings.Count(with, "$"))
		if size > MaxText {
			return "", ErrTooLong
		}
	}
	return re.ReplaceAllString(text, with), nil
}

// ReplaceAllFunc is re.ReplaceAllStringFunc, but ErrTooLong in place of a text
// beyond MaxText.
func ReplaceAllFunc(re *regexp.Regexp, text string, with func(string) string) (string, error) {
	size := len(text)
	out := re.ReplaceAllStringFunc(text, func(match string) string {
		if size > MaxText {
			return ""
		}
		made := with(match)
		size += len(made)
		return made
	})
	if size > MaxText {
		return "", ErrTooLong
	}
	return out, nil
}
