package vql

import "strings"

// The built-in path syntaxes.
var (
	// PathLinux prints /a/b.
	PathLinux PathSyntax = linuxSyntax{}
	// PathWindows prints C:\a\b and reads both slashes.
	PathWindows PathSyntax = windowsSyntax{name: "windows"}
	// PathNTFS prints \\.\C:\a\b; a device like \\.\C: is one component.
	PathNTFS PathSyntax = windowsSyntax{name: "ntfs"}
	// PathRegistry prints HKEY_USERS\a\"b\c" with quotes where a component holds
	// a separator, and knows the short hive names.
	PathRegistry PathSyntax = registrySyntax{}
	// PathZip prints a/b, relative.
	PathZip PathSyntax = zipSyntax{}
	// PathGeneric prints /a/b and quotes components that hold a separator.
	PathGeneric PathSyntax = genericSyntax{}
	// PathOpaque keeps the text as one component: data and scope accessors.
	PathOpaque PathSyntax = opaqueSyntax{}
)

// SyntaxByName returns the syntax for a path_type; unknown names and "" give
// false.
func SyntaxByName(name string) (PathSyntax, bool) {
	for _, s := range []PathSyntax{
		PathLinux, PathWindows, PathNTFS, PathRegistry, PathZip,
		PathGeneric, PathOpaque,
	} {
		if s.Name() == name {
			return s, true
		}
	}
	switch name {
	case "unix", "posix", "darwin":
		return PathLinux, true
	case "raw", "data":
		return PathOpaque, true
	}
	return nil, false
}

type linuxSyntax struct{}

func (linuxSyntax) Name() string { return "linux" }

func (linuxSyntax) Split(text string) []string { return splitClean(text, "/") }

func (linuxSyntax) Join(c []string) string { return "/" + strings.Join(c, "/") }

// splitClean splits at any of the separators and resolves empty, . and ..
// components, never above the top.
func splitClean(text, separators string) []string {
	fields := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(separators, r) })
	out := make([]string, 0, len(fields))
	for _, f := range fields {
		switch f {
		case ".":
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
		default:
			out = append(out, f)
		}
	}
	return out
}

type zipSyntax struct{}

func (zipSyntax) Name() string { return "zip" }

func (zipSyntax) Split(text string) []string { return splitClean(text, `/\`) }

func (zipSyntax) Join(c []string) string { return strings.Join(c, "/") }

type windowsSyntax struct{ name string }

func (s windowsSyntax) Name() string { return s.name }

func (s windowsSyntax) Split(text string) []string {
	for _, prefix := range []string{`\\.\`, `\\?\`, `//./`, `//?/`} {
		if rest, ok := strings.CutPrefix(text, prefix); ok {
			parts := splitClean(rest, `/\`)
			if len(parts) > 0 && s.deviceFirst(parts[0], prefix) {
				parts[0] = `\\` + prefix[2:3] + `\` + parts[0]
			}
			return parts
		}
	}
	return splitClean(text, `/\`)
}

// deviceFirst reports whether the first component keeps its device prefix: always
// for ntfs, for windows unless it is a mere drive letter.
func (s windowsSyntax) deviceFirst(first, prefix string) bool {
	if s.name == "ntfs" {
		return true
	}
	drive := len(first) == 2 && first[1] == ':'
	return !drive && strings.Contains(prefix, ".")
}

func (windowsSyntax) Join(c []string) string {
	switch {
	case len(c) == 1 && len(c[0]) == 2 && c[0][1] == ':':
		return c[0] + `\`
	case len(c) == 0:
		return ""
	}
	return strings.Join(c, `\`)
}

type registrySyntax struct{}

var hives = map[string]string{
	"HKCR": "HKEY_CLASSES_ROOT",
	"HKCU": "HKEY_CURRENT_USER",
	"HKLM": "HKEY_LOCAL_MACHINE",
	"HKU":  "HKEY_USERS",
	"HKCC": "HKEY_CURRENT_CONFIG",
}

func (registrySyntax) Name() string { return "registry" }

func (registrySyntax) Split(text string) []string {
	parts := splitQuoted(text, `/\`)
	if len(parts) > 0 {
		if long, ok := hives[strings.ToUpper(parts[0])]; ok {
			parts[0] = long
		}
	}
	return parts
}

func (registrySyntax) Join(c []string) string { return joinQuoted(c, `\`, `/\`) }

type genericSyntax struct{}

func (genericSyntax) Name() string { return "generic" }

func (genericSyntax) Split(text string) []string { return splitQuoted(text, `/\`) }

func (genericSyntax) Join(c []string) string { return "/" + joinQuoted(c, "/", `/\`) }

type opaqueSyntax struct{}

func (opaqueSyntax) Name() string { return "opaque" }

func (opaqueSyntax) Split(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}

func (opaqueSyntax) Join(c []string) string { return strings.Join(c, "/") }

// splitQuoted splits at separators outside double quotes; a doubled quote inside
// quotes is one quote.
func splitQuoted(text, separators string) []string {
	var out []string
	for i := 0; i < len(text); {
		switch {
		case strings.IndexByte(separators, text[i]) >= 0:
			i++
		case text[i] == '"':
			part, next := unquotePart(text, i+1)
			out, i = append(out, part), next
		default:
			end := i
			for end < len(text) && strings.IndexByte(separators, text[end]) < 0 {
				end++
			}
			out, i = append(out, text[i:end]), end
		}
	}
	return out
}

func unquotePart(text string, start int) (string, int) {
	var b strings.Builder
	for i := start; i < len(text); i++ {
		switch {
		case text[i] != '"':
			b.WriteByte(text[i])
		case i+1 < len(text) && text[i+1] == '"':
			b.WriteByte('"')
			i++
		default:
			return b.String(), i + 1
		}
	}
	return b.String(), len(text)
}

func joinQuoted(parts []string, separator, special string) string {
	out := make([]string, len(parts))
	for i, p := range parts {
		if strings.ContainsAny(p, special) || strings.HasPrefix(p, `"`) || p == "" {
			p = `"` + strings.ReplaceAll(p, `"`, `""`) + `"`
		}
		out[i] = p
	}
	return strings.Join(out, separator)
}
