package artifacts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// ParseFile reads a file of the disk as Parse does, and no more of it than a
// definition may have.
func ParseFile(name string) (*Definition, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	return Parse(name, text)
}

// onlyDocument reads the one YAML document of a file. A second one would be a
// definition that nobody sees.
func onlyDocument(text []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	if err := decoder.Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, err
	case len(second.Content) == 1 && second.Content[0].Tag != "!!null":
		return nil, fmt.Errorf("line %d: a second document begins: a file is one artifact", second.Content[0].Line)
	}
	return &document, nil
}

var (
	yamlLine  = regexp.MustCompile(`line (\d+)`)
	yamlPlace = regexp.MustCompile(`^(?:yaml: )?(?:line \d+: )?`)
)

// lineOf is the line that an error of the YAML reader names; where it names none,
// that of the first character that no YAML has.
func lineOf(err error, text []byte) int {
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		if line, err := strconv.Atoi(m[1]); err == nil {
			return line
		}
	}
	line := 1
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1, r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7f:
			return line
		case r == '\n':
			line++
		}
		text = text[size:]
	}
	return 1
}
