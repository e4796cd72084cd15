package hunts

import (
	"slices"
	"strings"
	"time"

	"raptorpack/ids"
)

// Estimate is how many clients a hunt would find now. What its own condition and
// filter would say of them is not known before they are asked.
type Estimate struct{ Matching, Online int }

// scanPage is how many clients are looked at together.
const scanPage = 4096

// Estimate counts the clients that fit conditions, and how many of them are online.
// The search index counts them: milliseconds for a million. Labels that mean
// something else in a search are looked at one by one.
func (r *Room) Estimate(org ids.Org, c Conditions, now time.Time) (Estimate, error) {
	if err := c.check(); err != nil {
		return Estimate{}, err
	}
	if c.OnlyAdded {
		return Estimate{}, nil
	}
	if slices.ContainsFunc(slices.Concat(c.Include, c.Exclude), special) {
		return r.scan(org, &c, now)
	}
	var e Estimate
	for _, text := range queries(&c) {
		for _, count := range []struct {
			into *int
			text string
		}{{&e.Matching, text}, {&e.Online, text + " online"}} {
			page, err := r.o.Clients.Search(org, count.text, 0, 0, now)
			if err != nil {
				return Estimate{}, err
			}
			*count.into += page.Total
		}
	}
	return e, nil
}

// special reports whether a label cannot be searched for as it is.
func special(label string) bool {
	return strings.ContainsAny(label, `*?"`) || strings.EqualFold(label, "none")
}

// queries are searches of which each client that fits is found by exactly one: by
// the first of the labels that it has.
func queries(c *Conditions) []string {
	base := "all"
	if c.OS != "" {
		base += " os:" + c.OS
	}
	for _, label := range c.Exclude {
		base += ` -label:"` + label + `"`
	}
	if len(c.Include) == 0 {
		return []string{base}
	}
	out := make([]string, 0, len(c.Include))
	for _, label := range c.Include {
		out = append(out, base+` label:"`+label+`"`)
		base += ` -label:"` + label + `"`
	}
	return out
}

// scan looks at all clients.
func (r *Room) scan(org ids.Org, c *Conditions, now time.Time) (Estimate, error) {
	var e Estimate
	for after := uint32(0); ; {
		page, err := r.o.Clients.Search(org, "all", after, scanPage, now)
		if err != nil {
			return Estimate{}, err
		}
		for _, match := range page.Matches {
			if !c.fits(match.Record) {
				continue
			}
			e.Matching++
			if match.Seen.Online {
				e.Online++
			}
		}
		if after = page.Next; after == 0 {
			return e, nil
		}
	}
}
