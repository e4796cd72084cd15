package users

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"raptorpack/proto/buspb"
)

// ErrUnknownFavorite means that an account saved nothing of that name and type.
var ErrUnknownFavorite = errors.New("unknown favorite")

var validLang = regexp.MustCompile(`^[A-Za-z]{2,8}([_-][A-Za-z0-9]{1,8}){0,3}$`)

// OptionsWish is what is to become of an account's options; nil stays.
type OptionsWish struct {
	Theme, Timezone, Lang, Org *string
	Links                      *[]string // each a JSON object with text and url
}

// PlanOptions changes how the GUI looks for an account. A time zone that this node
// does not know is refused.
func (r *Room) PlanOptions(user string, w OptionsWish) (*buspb.Mutation, error) {
	if _, err := r.Account(user); err != nil {
		return nil, err
	}
	change := &buspb.UserOptions{Name: user, Theme: w.Theme, Timezone: w.Timezone, Lang: w.Lang, Org: w.Org}
	if w.Links != nil {
		change.Links = &buspb.UserLinks{Links: *w.Links}
	}
	if err := checkOptions(change); err != nil {
		return nil, err
	}
	if _, err := time.LoadLocation(change.GetTimezone()); err != nil {
		return nil, fmt.Errorf("time zone %.60q: %w", change.GetTimezone(), ErrRefused)
	}
	return mutation(&buspb.UserChange{Change: &buspb.UserChange_Options{Options: change}})
}

func checkOptions(change *buspb.UserOptions) error {
	for _, one := range [][2]string{{"theme", change.GetTheme()}, {"timezone", change.GetTimezone()}, {"org", change.GetOrg()}} {
		if err := checkWord(one[0], one[1]); err != nil && one[1] != "" {
			return err
		}
	}
	if lang := change.GetLang(); lang != "" && !validLang.MatchString(lang) {
		return fmt.Errorf("lang %.40q: expected something like en or pt-br: %w", lang, ErrRefused)
	}
	links := change.GetLinks().GetLinks()
	if len(links) > maxLinks {
		return fmt.Errorf("%d links, at most %d are kept: %w", len(links), maxLinks, ErrRefused)
	}
	for _, link := range links {
		if err := checkLink(link); err != nil {
			return err
		}
	}
	return nil
}

// checkLink takes links that a browser may follow: a script is none.
func checkLink(text string) error {
	if err := checkObject("link", text, maxJSONBytes); err != nil {
		return err
	}
	var link struct{ Text, URL string }
	if err := json.Unmarshal([]byte(text), &link); err != nil || link.Text == "" {
		return fmt.Errorf("link: expected text and url: %w", ErrRefused)
	}
	if url := strings.ToLower(link.URL); !strings.HasPrefix(url, "https://") && !strings.HasPrefix(url, "http://") {
		return fmt.Errorf("link %.40q: expected a url that begins with https:// or http://: %w", link.Text, ErrRefused)
	}
	return nil
}

// PlanMessage tells an account something: one JSON object of at most 4 KiB. Whoever
// proposes it has to name the principal who sends it.
func (r *Room) PlanMessage(user, object string) (*buspb.Mutation, error) {
	if _, err := r.Account(user); err != nil {
		return nil, err
	}
	if err := checkObject("message", object, maxJSONBytes); err != nil {
		return nil, err
	}
	return mutation(&buspb.UserChange{Change: &buspb.UserChange_Message{Message: &buspb.UserMessage{Name: user, Json: object}}})
}

// PlanFavorite saves a collection for an account, in place of one of that name and
// type.
func (r *Room) PlanFavorite(user string, f Favorite) (*buspb.Mutation, error) {
	if _, err := r.Account(user); err != nil {
		return nil, err
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return mutation(&buspb.UserChange{Change: &buspb.UserChange_Favorite{Favorite: &buspb.UserFavorite{
		User: user, Name: f.Name, Type: f.Type, Description: f.Description, Spec: string(f.Spec),
	}}})
}

// PlanUnfavorite forgets what an account saved; ErrUnknownFavorite when there is no
// such thing.
func (r *Room) PlanUnfavorite(user, kind, name string) (*buspb.Mutation, error) {
	if _, err := r.Account(user); err != nil {
		return nil, err
	}
	p := r.profile(user)
	if _, known := p.find(kind, name); !known {
		return nil, fmt.Errorf("favorite %.80q of type %.40q: %w", name, kind, ErrUnknownFavorite)
	}
	return mutation(&buspb.UserChange{Change: &buspb.UserChange_Unfavorite{Unfavorite: &buspb.UserUnfavorite{User: user, Name: name, Type: kind}}})
}

func (f *Favorite) check() error {
	if err := checkWord("name of a favorite", f.Name); err != nil {
		return err
	}
	if err := checkWord("type of a favorite", f.Type); err != nil {
		return err
	}
	if len(f.Description) > maxProse || !utf8.ValidString(f.Description) {
		return fmt.Errorf("description of favorite %.80q: expected text of at most %d bytes: %w", f.Name, maxProse, ErrRefused)
	}
	if len(f.Spec) > maxSpecBytes || !json.Valid(f.Spec) {
		return fmt.Errorf("favorite %.80q: expected JSON of at most %d bytes: %w", f.Name, maxSpecBytes, ErrRefused)
	}
	return nil
}

func checkWord(what, text string) error {
	if text == "" || len(text) > maxWord || !utf8.ValidString(text) || strings.IndexFunc(text, unicode.IsControl) >= 0 {
		return fmt.Errorf("%s %.80q: expected 1 to %d bytes of printable text: %w", what, text, maxWord, ErrRefused)
	}
	return nil
}

// checkObject takes one JSON object.
func checkObject(what, text string, most int) error {
	var object map[string]json.RawMessage
	if len(text) > most || !utf8.ValidString(text) || json.Unmarshal([]byte(text), &object) != nil || object == nil {
		return fmt.Errorf("%s: expected a JSON object of at most %d bytes: %w", what, most, ErrRefused)
	}
	return nil
}
