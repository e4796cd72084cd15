package filestore

import (
	"path"
	"strings"
	"time"
)

// eventsBefore names the set of the day before a day of events or of their logs;
// false for any other set.
func eventsBefore(set Set) (Set, bool) {
	folder, last := path.Split(string(set))
	parts := strings.Split(folder, "/")
	if len(parts) > 2 && parts[0] == "orgs" {
		parts = parts[2:]
	}
	if len(parts) < 3 || parts[0] != "events" && parts[0] != "eventlogs" {
		return "", false
	}
	day, err := time.Parse(time.DateOnly, last)
	if err != nil {
		return "", false
	}
	return Set(folder + day.AddDate(0, 0, -1).Format(time.DateOnly)), true
}
