package clients

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"raptorpack/ids"
)

// ErrQuery means that a search text cannot be understood. Its text says which
// word and what was expected.
var ErrQuery = errors.New("search not understood")

// Query is a parsed search. The zero value matches every client. It serves one
// search.
type Query struct {
	id         string // exactly this client
	conditions []clause
	soft       bool // some ask what was seen of a client
}

// clause is a condition that has to hold, or must not.
type clause struct {
	condition
	negated bool
}

// ParseQuery reads the search grammar. Words stand apart by blanks ("..." keeps
// blanks inside) and are AND-ed; a leading - negates one:
//
//	web-1            host, FQDN, client id, label or address contains it
//	C.0123456789abcdef   exactly this client
//	host:web*        host or FQDN; * and ? are wildcards, without any: contains
//	label:prod       carries the label; label:none: carries none at all
//	os:windows       ip:10.1.*   mac:00:16:*   user:root   id:C.12*
//	version:<0.7     compares dotted numbers: < <= > >= =
//	seen:<2h         last seen less than 2 hours ago; > means longer; s m h d
//	online           a connection is open now
//	recent           last seen within an hour
//	all              every client
func ParseQuery(text string) (*Query, error) {
	words, err := splitWords(text)
	if err != nil {
		return nil, err
	}
	q := &Query{}
	for _, word := range words {
		if err := q.add(word); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (q *Query) add(word string) error {
	word, negated := strings.CutPrefix(word, "-")
	if word == "" {
		return fmt.Errorf("a lone - : expected a word after it: %w", ErrQuery)
	}
	lower := strings.ToLower(word)
	key, value, keyed := strings.Cut(lower, ":")
	switch {
	case lower == "all":
		if negated {
			q.require(false, never{})
		}
		return nil
	case lower == "online":
		q.require(negated, online{})
		return nil
	case lower == "recent":
		q.require(negated, lastSeen{online: true, test: func(since time.Duration) bool { return since < time.Hour }})
		return nil
	case keyed && isKey(key):
		return q.addKeyed(word, key, value, negated)
	}
	if id, ok := clientOf(lower); ok && !negated {
		if q.id != "" && q.id != id {
			q.require(false, never{}) // no client is two
		}
		q.id = id
		return nil
	}
	q.require(negated, newWord(lower))
	return nil
}

func (q *Query) require(negated bool, c condition) {
	q.conditions = append(q.conditions, clause{c, negated})
	switch c := c.(type) {
	case online, lastSeen, *address:
		q.soft = true
	case *word:
		q.soft = q.soft || c.address != nil
	}
}

// clientOf reads a client id in lower case.
func clientOf(lower string) (string, bool) {
	digits, ok := strings.CutPrefix(lower, "c.")
	if !ok {
		return "", false
	}
	_, err := ids.ParseClient("C." + digits)
	return "C." + digits, err == nil
}

func isKey(key string) bool {
	switch key {
	case "host", "label", "os", "ip", "mac", "user", "version", "seen", "id", "client":
		return true
	}
	return false
}

func (q *Query) addKeyed(word, key, value string, negated bool) error {
	if value == "" {
		return fmt.Errorf("%s: expected a value after the colon: %w", word, ErrQuery)
	}
	fits := newPattern(value)
	switch key {
	case "host":
		q.require(negated, host{fits})
	case "label":
		if value == "none" {
			q.require(negated, unlabelled{})
			break
		}
		fits.whole = true
		q.require(negated, &labels{fits: fits})
	case "os":
		q.require(negated, newPlatform(func(p *platform) bool { return fits.inText(p.system) }))
	case "mac":
		q.require(negated, newMAC(fits))
	case "user":
		q.require(negated, user{fits})
	case "id", "client":
		q.require(negated, id{fits})
	case "ip":
		q.require(negated, newAddress(fits))
	case "version":
		return q.addVersion(word, value, negated)
	case "seen":
		return q.addSeen(word, value, negated)
	}
	return nil
}

func (q *Query) addVersion(word, value string, negated bool) error {
	operator, rest := cutOperator(value)
	if operator == "" {
		fits := newPattern(value)
		q.require(negated, newPlatform(func(p *platform) bool { return fits.inText(p.version) }))
		return nil
	}
	want, ok := dotted(rest)
	if !ok {
		return fmt.Errorf("%s: expected a number such as 0.7.1: %w", word, ErrQuery)
	}
	q.require(negated, newPlatform(func(p *platform) bool {
		have, ok := dotted(p.version)
		return ok && compares(operator, compareDotted(have, want))
	}))
	return nil
}

func (q *Query) addSeen(word, value string, negated bool) error {
	operator, rest := cutOperator(value)
	age, err := parseAge(rest)
	if err != nil || operator == "=" {
		return fmt.Errorf("%s: expected an age such as seen:<2h, in s, m, h or d: %w", word, ErrQuery)
	}
	if operator == "" {
		operator = "<"
	}
	test := func(since time.Duration) bool {
		return compares(operator, int(since.Milliseconds()-age.Milliseconds()))
	}
	// Not since this node started is long ago.
	q.require(negated, lastSeen{test: test, online: test(0), never: operator[0] == '>'})
	return nil
}

func cutOperator(value string) (operator, rest string) {
	for _, operator := range []string{"<=", ">=", "<", ">", "="} {
		if rest, ok := strings.CutPrefix(value, operator); ok {
			return operator, rest
		}
	}
	return "", value
}

func compares(operator string, order int) bool {
	switch operator {
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	case ">=":
		return order >= 0
	}
	return order == 0
}

// dotted reads the leading dotted numbers of a version: 0.7.1-rc2 is 0, 7, 1.
func dotted(text string) ([]int, bool) {
	text = strings.TrimPrefix(strings.TrimSpace(text), "v")
	var numbers []int
	for _, part := range strings.Split(text, ".") {
		end := 0
		for end < len(part) && part[end] >= '0' && part[end] <= '9' {
			end++
		}
		n, err := strconv.Atoi(part[:end])
		if err != nil {
			break
		}
		numbers = append(numbers, n)
		if end < len(part) {
			break
		}
	}
	return numbers, len(numbers) > 0
}

func compareDotted(a, b []int) int {
	for i := range max(len(a), len(b)) {
		var x, y int
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			return x - y
		}
	}
	return 0
}

func parseAge(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || n < 0 || n > 36500 {
			return 0, ErrQuery
		}
		return time.Duration(n * 24 * float64(time.Hour)), nil
	}
	age, err := time.ParseDuration(text)
	if err != nil || age < 0 {
		return 0, ErrQuery
	}
	return age, nil
}

func splitWords(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	quoted, any := false, false
	flush := func() {
		if any {
			words = append(words, word.String())
			word.Reset()
			any = false
		}
	}
	for _, r := range text {
		switch {
		case r == '"':
			quoted, any = !quoted, true
		case !quoted && (r == ' ' || r == '\t' || r == '\n'):
			flush()
		default:
			word.WriteRune(r)
			any = true
		}
	}
	if quoted {
		return nil, fmt.Errorf("a quotation mark is not closed: %w", ErrQuery)
	}
	flush()
	return words, nil
}
