package endpoint

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"raptorpack/vql"
)

// eventMessages finds the texts of events in a database. nil finds none.
type eventMessages struct {
	file  *database
	db    *sql.DB
	known map[messageKey]string
}

type messageKey struct {
	provider string
	id       int64
}

// maxKnownMessages bounds what is kept of a database.
const maxKnownMessages = 10_000

// openMessages opens a database of messages; "" is none. It is a file of the
// machine that asks, so that it is opened as such.
func openMessages(ctx context.Context, scope *vql.Scope, name string) (*eventMessages, error) {
	if name == "" {
		return nil, nil
	}
	path, err := scope.ToPath(ctx, name, "")
	if err != nil {
		return nil, err
	}
	file, err := openDatabase(ctx, scope, "", path)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", fileURI(file.name, "ro"))
	if err != nil {
		file.close(scope)
		return nil, err
	}
	return &eventMessages{file: file, db: db, known: map[messageKey]string{}}, nil
}

func (m *eventMessages) close(scope *vql.Scope) {
	if m == nil {
		return
	}
	closeSQL(scope, m.db)
	m.file.close(scope)
}

const messageQuery = `SELECT message FROM messages JOIN providers ON messages.provider_id = providers.id
	WHERE providers.name = ? AND messages.event_id = ? LIMIT 1`

// describe sets the message of an event.
func (m *eventMessages) describe(ctx context.Context, scope *vql.Scope, event *vql.Dict) {
	if m == nil {
		return
	}
	key := keyOf(event)
	text, ok := m.known[key]
	if !ok {
		err := m.db.QueryRowContext(ctx, messageQuery, key.provider, key.id).Scan(&text)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			scope.Log(vql.LevelWarn, "parse_evtx: look up message: %v", err)
		}
		if len(m.known) < maxKnownMessages {
			m.known[key] = text
		}
	}
	event.Update("Message", fillMessage(text, event))
}

func keyOf(event *vql.Dict) messageKey {
	system := memberDict(event, "System")
	provider, _ := memberDict(system, "Provider").Get("Name")
	id, _ := memberDict(system, "EventID").Get("Value")
	n, _ := id.(int64)
	return messageKey{fmt.Sprint(provider), n}
}

// memberDict is a dict in a dict; an empty one where there is none.
func memberDict(d *vql.Dict, name string) *vql.Dict {
	v, _ := d.Get(name)
	if inner, ok := v.(*vql.Dict); ok {
		return inner
	}
	return vql.NewDict()
}

var messagePlace = regexp.MustCompile(`%([1-9][0-9]?)(?:![^!]*!)?|%[nrt%]`)

// fillMessage puts the event's data, which are numbered from 1, into a text.
func fillMessage(text string, event *vql.Dict) string {
	if text == "" {
		return ""
	}
	data := memberDict(event, "EventData")
	names := data.Keys()
	return messagePlace.ReplaceAllStringFunc(text, func(place string) string {
		switch place {
		case "%n":
			return "\n"
		case "%r":
			return "\r"
		case "%t":
			return "\t"
		case "%%":
			return "%"
		}
		number, _, _ := strings.Cut(place[1:], "!")
		n, err := strconv.Atoi(number)
		if err != nil || n > len(names) {
			return place
		}
		v, _ := data.Get(names[n-1])
		if vql.IsNull(v) {
			return ""
		}
		return fmt.Sprint(v)
	})
}
