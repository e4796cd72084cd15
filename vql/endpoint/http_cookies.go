package endpoint

import (
	"net/http"
	"net/url"

	"raptorpack/vql"
)

// dictJar is the cookie jar of queries: a dict of dicts, name to value for each host,
// so that they can look into it and keep it. As a jar of the client it also has the
// cookies of answers that lead elsewhere, as those to a login do. It implements
// http.CookieJar; one call uses it, and that one by one.
type dictJar struct {
	text  func(vql.Value) string
	hosts *vql.Dict
}

// Cookies implements http.CookieJar.
func (j dictJar) Cookies(u *url.URL) (out []*http.Cookie) {
	v, _ := j.hosts.Get(u.Hostname())
	host, ok := v.(*vql.Dict)
	if !ok {
		return nil
	}
	for _, name := range host.Keys() {
		value, _ := host.Get(name)
		out = append(out, &http.Cookie{Name: name, Value: j.text(value)})
	}
	return out
}

// SetCookies implements http.CookieJar.
func (j dictJar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	v, _ := j.hosts.Get(u.Hostname())
	host, ok := v.(*vql.Dict)
	if !ok {
		host = vql.NewDict()
	}
	for _, cookie := range cookies {
		if cookie.MaxAge < 0 {
			host.Delete(cookie.Name)
			continue
		}
		host.Set(cookie.Name, cookie.Value)
	}
	j.hosts.Set(u.Hostname(), host)
}
