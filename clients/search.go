package clients

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"raptorpack/ids"
)

// ErrQuery means that a search text cannot be understood. Its text says which
// word and what was expected.
var ErrQuery = errors.New("search not understood")

// Match is a found client with what is known of its presence.
type Match struct {
	*Record
	Seen Seen
}

// Page is a piece of an answer, in order of enrolment.
type Page struct {
	Matches []Match
	Total   int    // how many match in all
	Next    uint32 // pass as After to go on; 0: this was the last page
}

// Search finds clients. Words are AND-ed; see ParseQuery for the grammar. After
// is the Next of the page before, 0 for the first; limit bounds the page.
func (r *Room) Search(org ids.Org, text string, after uint32, limit int, now time.Time) (*Page, error) {
	query, err := ParseQuery(text)
	if err != nil {
		return nil, err
	}
	page := &Page{}
	r.mu.RLock()
	// Apply replaces elements in place, so the scan holds the read lock: 200,000
	// records take about 10 ms.
	defer r.mu.RUnlock()
	var records []*Record
	if t := r.orgs[org]; t != nil {
		records = t.byOrdinal[:len(t.byOrdinal):len(t.byOrdinal)]
		if query.id != "" {
			records = t.only(query.id)
		}
	}
	for _, record := range records {
		if record == nil || !query.static(record) {
			continue
		}
		seen := r.Seen(org, record.Client)
		if !query.soft(record, seen, now) {
			continue
		}
		page.Total++
		switch {
		case record.Ordinal < after:
		case len(page.Matches) < limit:
			page.Matches = append(page.Matches, Match{record, seen})
		case page.Next == 0:
			page.Next = record.Ordinal
		}
	}
	return page, nil
}

func (t *table) only(id string) []*Record {
	client, err := ids.ParseClient(id)
	if err != nil {
		return nil
	}
	if record := t.byID[client]; record != nil {
		return []*Record{record}
	}
	return nil
}

// Query is a parsed search. The zero value matches every client.
type Query struct {
	id      string // exactly this client
	statics []func(*Record) bool
	softs   []func(*Record, Seen, time.Time) bool
}

func (q *Query) static(r *Record) bool {
	for _, test := range q.statics {
		if !test(r) {
			return false
		}
	}
	return true
}

func (q *Query) soft(r *Record, s Seen, now time.Time) bool {
	for _, test := range q.softs {
		if !test(r, s, now) {
			return false
		}
	}
	return true
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
			q.statics = append(q.statics, func(*Record) bool { return false })
		}
		return nil
	case lower == "online":
		q.addSoft(negated, func(s Seen, _ time.Time) bool { return s.Online })
		return nil
	case lower == "recent":
		q.addSoft(negated, func(s Seen, now time.Time) bool { return s.Online || now.Sub(s.At) < time.Hour })
		return nil
	case keyed && isKey(key):
		return q.addKeyed(word, key, value, negated)
	}
	if id, ok := clientOf(lower); ok && !negated {
		if q.id != "" && q.id != id {
			q.addStatic(false, func(*Record) bool { return false }) // no client is two
		}
		q.id = id
		return nil
	}
	q.addBare(lower, negated)
	return nil
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

// addBare seeks a word in the record's text, or in the address, which is soft.
func (q *Query) addBare(word string, negated bool) {
	inText := func(r *Record) bool { return strings.Contains(r.text, word) }
	if !strings.ContainsAny(word, "0123456789") || strings.Trim(word, "0123456789abcdef.:%") != "" {
		q.addStatic(negated, inText) // no part of an address
		return
	}
	q.softs = append(q.softs, func(r *Record, s Seen, _ time.Time) bool {
		return (inText(r) || strings.Contains(s.Address, word)) != negated
	})
}

func (q *Query) addStatic(negated bool, test func(*Record) bool) {
	q.statics = append(q.statics, func(r *Record) bool { return test(r) != negated })
}

func (q *Query) addSoft(negated bool, test func(Seen, time.Time) bool) {
	q.softs = append(q.softs, func(_ *Record, s Seen, now time.Time) bool { return test(s, now) != negated })
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
	fits := matcher(value)
	switch key {
	case "host":
		q.addStatic(negated, func(r *Record) bool {
			return fits(strings.ToLower(r.Hostname)) || fits(strings.ToLower(r.FQDN))
		})
	case "label":
		q.addStatic(negated, labelTest(value))
	case "os":
		q.addStatic(negated, func(r *Record) bool { return fits(strings.ToLower(r.System)) })
	case "mac":
		q.addStatic(negated, anyOf(fits, func(r *Record) []string { return r.MACs }))
	case "user":
		q.addStatic(negated, anyOf(fits, func(r *Record) []string { return r.Users }))
	case "id", "client":
		q.addStatic(negated, func(r *Record) bool { return fits(strings.ToLower(r.Client.String())) })
	case "ip":
		q.addSoft(negated, func(s Seen, _ time.Time) bool { return fits(s.Address) })
	case "version":
		return q.addVersion(word, value, negated)
	case "seen":
		return q.addSeen(word, value, negated)
	}
	return nil
}

func labelTest(value string) func(*Record) bool {
	if value == "none" {
		return func(r *Record) bool { return len(r.Labels) == 0 }
	}
	fits := exactly(value)
	return anyOf(fits, func(r *Record) []string { return r.Labels })
}

func anyOf(fits func(string) bool, texts func(*Record) []string) func(*Record) bool {
	return func(r *Record) bool {
		for _, text := range texts(r) {
			if fits(strings.ToLower(text)) {
				return true
			}
		}
		return false
	}
}

// matcher tests by wildcards if the pattern has any, else by substring.
func matcher(pattern string) func(string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return func(text string) bool { return strings.Contains(text, pattern) }
	}
	return exactly(pattern)
}

// exactly tests the whole text by wildcards * and ?.
func exactly(pattern string) func(string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return func(text string) bool { return text == pattern }
	}
	// path.Match treats / as a boundary and knows [...]: neither is wanted here.
	escaped := strings.NewReplacer(`\`, `\\`, `[`, `\[`, `/`, "\x00").Replace(pattern)
	return func(text string) bool {
		ok, err := path.Match(escaped, strings.ReplaceAll(text, "/", "\x00"))
		return ok && err == nil
	}
}

func (q *Query) addVersion(word, value string, negated bool) error {
	operator, rest := cutOperator(value)
	if operator == "" {
		fits := matcher(value)
		q.addStatic(negated, func(r *Record) bool { return fits(strings.ToLower(r.Version)) })
		return nil
	}
	want, ok := dotted(rest)
	if !ok {
		return fmt.Errorf("%s: expected a number such as 0.7.1: %w", word, ErrQuery)
	}
	q.addStatic(negated, func(r *Record) bool {
		have, ok := dotted(r.Version)
		return ok && compares(operator, compareDotted(have, want))
	})
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
	q.addSoft(negated, func(s Seen, now time.Time) bool {
		since := now.Sub(s.At)
		switch {
		case s.Online:
			since = 0
		case s.At.IsZero():
			return operator[0] == '>' // not since this node started: long ago
		}
		return compares(operator, int(since.Milliseconds()-age.Milliseconds()))
	})
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
