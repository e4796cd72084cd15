package wire

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
)

// ProxyOptions are how an agent finds its way out (protocol section 3.9).
// Without any, the environment decides: HTTP_PROXY, HTTPS_PROXY, NO_PROXY.
type ProxyOptions struct {
	Proxy string // Client.proxy: one for both schemes, instead of the environment

	HTTP, HTTPS       string            // Client.proxy_config
	URLRegexp         map[string]string // URL pattern to proxy; an empty proxy means direct
	IgnoreEnvironment bool
}

type proxyFunc func(*http.Request) (*url.URL, error)

type proxyRule struct {
	pattern *regexp.Regexp
	proxy   *url.URL // nil: direct
}

// Choose builds the rule set. The environment wins over proxy_config unless it
// is to be ignored; patterns win over the scheme's proxy, in the order of their
// text since a map has none.
func (o ProxyOptions) Choose() (func(*http.Request) (*url.URL, error), error) {
	if o.Proxy != "" {
		fixed, err := proxyURL(o.Proxy)
		if err != nil {
			return nil, err
		}
		return http.ProxyURL(fixed), nil
	}
	var rules []proxyRule
	for _, pattern := range slices.Sorted(maps.Keys(o.URLRegexp)) {
		compiled, err := regexp.Compile(pattern)
		if err != nil {
			return nil, fmt.Errorf("proxy_url_regexp: %w", err)
		}
		proxy, err := proxyURL(o.URLRegexp[pattern])
		if err != nil {
			return nil, err
		}
		rules = append(rules, proxyRule{compiled, proxy})
	}
	byScheme := make(map[string]*url.URL, 2)
	for scheme, text := range map[string]string{"http": o.HTTP, "https": o.HTTPS} {
		proxy, err := proxyURL(text)
		if err != nil {
			return nil, err
		}
		byScheme[scheme] = proxy
	}
	return func(r *http.Request) (*url.URL, error) {
		if !o.IgnoreEnvironment {
			if found, err := http.ProxyFromEnvironment(r); found != nil || err != nil {
				return found, err
			}
		}
		for _, rule := range rules {
			if rule.pattern.MatchString(r.URL.String()) {
				return rule.proxy, nil
			}
		}
		return byScheme[r.URL.Scheme], nil
	}, nil
}

func proxyURL(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("proxy %.80q: not a URL with scheme and host", text)
	}
	return u, nil
}
