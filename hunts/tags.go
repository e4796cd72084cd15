package hunts

import (
	"fmt"
	"slices"
	"strings"
)

// maxTags bounds the tags of a hunt.
const maxTags = 50

// Tags are words by which people find hunts again: sorted, each once. They mean nothing
// to the hunt itself.
type Tags struct{ joined string } // by line feeds, which no tag has

// ParseTags sorts tags and leaves out those that are there already. A tag that is no
// label, or too many of them, is ErrInvalid.
func ParseTags(all []string) (Tags, error) {
	for _, tag := range all {
		if err := checkLabel(tag); err != nil {
			return Tags{}, fmt.Errorf("tag: %w", err)
		}
	}
	if len(all) > maxTags {
		return Tags{}, fmt.Errorf("%d tags, more than %d: %w", len(all), maxTags, ErrInvalid)
	}
	return tagsOf(all), nil
}

func tagsOf(all []string) Tags {
	return Tags{strings.Join(slices.Compact(slices.Sorted(slices.Values(all))), "\n")}
}

// List returns the tags; none is an empty list.
func (t Tags) List() []string {
	if t.joined == "" {
		return []string{}
	}
	return strings.Split(t.joined, "\n")
}

// Has reports whether one of the tags is tag.
func (t Tags) Has(tag string) bool { return slices.Contains(t.List(), tag) }
