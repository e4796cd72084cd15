package main

import (
	"bufio"
	"errors"
	"io"
	"strings"
)

// maxEvent bounds one event of a stream, in bytes.
const maxEvent = 64 << 20

// event is one event of a stream, as far as it is used here.
type event struct{ id, data string }

// eachEvent hands over the whole events of a stream of server-sent events.
func eachEvent(stream io.Reader, take func(event) error) error {
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxEvent)
	var e event
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			e.id = value
		case "data":
			e.data += value
		case "":
			if lines.Text() == "" && e.data != "" { // a comment begins with a colon
				if err := take(e); err != nil {
					return err
				}
				e = event{}
			}
		}
	}
	return lines.Err()
}

// retriable reports whether an error may pass.
func retriable(err error) bool {
	var refused *problem
	return !errors.As(err, &refused) || refused.Status >= 500
}
