package clients_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"raptorpack/clients"
	"raptorpack/ids"
)

// Addresses as numbers are found by the patterns that fit their text, wherever
// colons, stars and question marks stand.
func TestMACsAreFoundAsTheirTextIs(t *testing.T) {
	octet := rapid.SampledFrom([]string{"00", "01", "10", "11", "16", "a1", "1a", "ff"})
	address := rapid.Map(rapid.SliceOfN(octet, 6, 6), func(octets []string) string { return strings.Join(octets, ":") })
	rapid.Check(t, func(t *rapid.T) {
		macs := rapid.SliceOfN(address, 1, 20).Draw(t, "macs")
		text := []byte(rapid.SampledFrom(macs).Draw(t, "whose"))
		for range rapid.IntRange(0, 5).Draw(t, "wild") {
			text[rapid.IntRange(0, len(text)-1).Draw(t, "at")] = rapid.SampledFrom([]byte("***?1:z")).Draw(t, "card")
		}
		begin := rapid.IntRange(0, len(text)-1).Draw(t, "begin")
		value := string(text[begin:rapid.IntRange(begin+1, len(text)).Draw(t, "end")])
		var want []int
		for i, mac := range macs {
			if fitsOne(value, mac) {
				want = append(want, i)
			}
		}
		if got := clients.MACs(value, macs...); !slices.Equal(got, want) {
			t.Fatalf("mac:%s of %q: %v, want %v", value, macs, got, want)
		}
	})
}

func TestEdgesOfMACPatterns(t *testing.T) {
	macs := []string{"ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "00:16:3e:ab:cd:ef"}
	for value, want := range map[string][]int{
		"*": {0, 1, 2}, "**": {0, 1, 2}, "?*": {0, 1, 2}, "*?": {0, 1, 2}, strings.Repeat("?", 17): {0, 1, 2}, strings.Repeat("?", 16): nil, strings.Repeat("?", 18): nil,
		"?": nil, "ff:*": {0}, "ff:ff:ff:ff:ff:ff": {0}, "ff:ff:ff:ff:ff:ff*": {0}, "*ff:ff:ff:ff:ff:ff": {0}, "00:16:3e:ab:cd:ef0": nil, "00:16:3e:ab:cd:ef:": nil,
		"00:16:3e:ab:cd:*:cd:ef": nil, "00:16:3e:ab:cd:*ef": {2}, "00:16:3e:ab:cd*:ef": {2}, "00:16:3e:ab:cd:e*ef": nil, "*3e*3e*": nil, "*ab*cd*": {2}, "*cd*ab*": nil, "*:*:*:*:*:*": {0, 1, 2}, "*:*:*:*:*:*:*": nil,
		":": {0, 1, 2}, "::": nil, "é": nil, "0": {1, 2}, "?0*": {1, 2}, "*f": {0, 2}, "*?f": {0, 2}, "b:c": {2}, "3e:a": {2}, "*" + strings.Repeat("?", 20): nil,
	} {
		if got := clients.MACs(value, macs...); !slices.Equal(got, want) {
			t.Errorf("mac:%s: %v, want %v", value, got, want)
		}
	}
}

// A search that begins at the end of host names and goes on in the domain finds
// those alone, also where host names have dots.
func TestEndsOfHostNamesAreFound(t *testing.T) {
	names := [][2]string{{"x7", "x7.corp"}, {"x7.y", "x7.y.corp"}, {"7", "7.corp"}, {"y-77", "y-77.corp"}, {"x78", "x78.corp"}, {"a7", "a7"}, {"b7", "other.corp"}, {"c7", "7.corpse"}}
	c := found(t, fleet{len(names), 1})
	for i, name := range names {
		row := fmt.Sprintf(`{"hostname":%q,"fqdn":%q}`, name[0], name[1])
		c.apply(c.PlanInfo(ids.RootOrg, c.fleet.client(t, i), []byte(row), ids.Flow{}, nil))
	}
	c.Meagre(0)
	c.Merge(t.Context())
	c.check("7.corp", "7.", "77.c", "y.corp", "7.y.c", "x7.", ".corp", "8.", "7.corps", "host:*7.corp", "host:?7.*", "host:7.*")
}
