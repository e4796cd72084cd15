package clients_test

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"raptorpack/clients"
)

// lowered is a record in lower case, as finds takes it.
func lowered(r *clients.Record) *clients.Record {
	l := *r
	l.Hostname, l.FQDN, l.System, l.Version = strings.ToLower(r.Hostname), strings.ToLower(r.FQDN), strings.ToLower(r.System), strings.ToLower(r.Version)
	for _, texts := range []*[]string{&l.Labels, &l.MACs, &l.Users} {
		*texts = slices.Clone(*texts)
		for i, text := range *texts {
			(*texts)[i] = strings.ToLower(text)
		}
	}
	return &l
}

// finds is the search grammar once more, for one client at a time and without any
// index: what Search has to agree with. It takes the words of a query.
func finds(words []string, r *clients.Record, seen clients.Seen, now time.Time) bool {
	for _, word := range words {
		word, negated := strings.CutPrefix(word, "-")
		if findsWord(strings.ToLower(word), r, seen, now) == negated {
			return false
		}
	}
	return true
}

func findsWord(word string, r *clients.Record, seen clients.Seen, now time.Time) bool {
	key, value, keyed := strings.Cut(word, ":")
	if !keyed {
		key = ""
	}
	switch {
	case word == "all":
		return true
	case word == "online":
		return seen.Online
	case word == "recent":
		return seen.Online || now.Sub(seen.At) < time.Hour
	case word == "label:none":
		return len(r.Labels) == 0
	case key == "host":
		return fitsOne(value, r.Hostname, r.FQDN)
	case key == "label":
		return slices.ContainsFunc(r.Labels, func(l string) bool { return wildcards(value, l) })
	case key == "os":
		return fitsOne(value, r.System)
	case key == "mac":
		return fitsOne(value, r.MACs...)
	case key == "user":
		return fitsOne(value, r.Users...)
	case key == "id":
		return fitsOne(value, strings.ToLower(r.Client.String()))
	case key == "ip":
		return fitsOne(value, seen.Address)
	case key == "version":
		return fitsVersion(value, r.Version)
	case key == "seen":
		return fitsAge(value, seen, now)
	case len(word) == 18 && strings.HasPrefix(word, "c.") && strings.Trim(word[2:], "0123456789abcdef") == "":
		return word == strings.ToLower(r.Client.String())
	}
	address := strings.ContainsAny(word, "0123456789") && strings.Trim(word, "0123456789abcdef.:%") == ""
	return containsAny(word, strings.ToLower(r.Client.String()), r.Hostname, r.FQDN) || containsAny(word, r.Labels...) ||
		address && strings.Contains(seen.Address, word)
}

func containsAny(part string, texts ...string) bool {
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, part) })
}

func fitsOne(pattern string, texts ...string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return containsAny(pattern, texts...)
	}
	return slices.ContainsFunc(texts, func(text string) bool { return wildcards(pattern, text) })
}

var escape = strings.NewReplacer(`\`, `\\`, `[`, `\[`, `/`, "\x01")

// wildcards leaves the work to path.Match, which treats / as a boundary and knows
// classes: neither is wanted here.
func wildcards(pattern, text string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return pattern == text
	}
	ok, err := path.Match(escape.Replace(pattern), strings.ReplaceAll(text, "/", "\x01"))
	return ok && err == nil
}

func fitsVersion(value, version string) bool {
	want := strings.TrimLeft(value, "<>=")
	operator := strings.TrimSuffix(value, want)
	if operator == "" {
		return fitsOne(value, version)
	}
	var have []int
	for _, part := range strings.Split(version, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			break
		}
		have = append(have, n)
	}
	if len(have) == 0 {
		return false
	}
	var other []int
	for _, part := range strings.Split(want, ".") {
		n, _ := strconv.Atoi(part)
		other = append(other, n)
	}
	for len(have) < len(other) {
		have = append(have, 0)
	}
	for len(other) < len(have) {
		other = append(other, 0)
	}
	return holdsFor(operator, slices.Compare(have, other))
}

func fitsAge(value string, seen clients.Seen, now time.Time) bool {
	want := strings.TrimLeft(value, "<>=")
	operator := strings.TrimSuffix(value, want)
	age, err := time.ParseDuration(want)
	if err != nil {
		panic(err)
	}
	since := now.Sub(seen.At)
	if seen.Online {
		since = 0
	} else if seen.At.IsZero() {
		return operator == ">" || operator == ">="
	}
	return holdsFor(operator, int(since.Milliseconds()-age.Milliseconds()))
}

func holdsFor(operator string, order int) bool {
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
