package clients

import "bytes"

// name is what words seek a host by, in lower case: the host name and, behind a
// dot, what the FQDN adds to it; or behind a newline another FQDN.
type name struct {
	all  []byte
	host int // bytes of the host name
}

// hostname is the host name alone.
func (n name) hostname() []byte { return n.all[:n.host] }

// domain is what the FQDN adds to the host name, with the dot in front.
func (n name) domain() []byte {
	if n.host < len(n.all) && n.all[n.host] == '.' {
		return n.all[n.host:]
	}
	return nil
}

// fqdn is the FQDN, or the host name where no other is known.
func (n name) fqdn() []byte {
	if n.host < len(n.all) && n.all[n.host] == '\n' {
		return n.all[n.host+1:]
	}
	return n.all
}

// contains reports whether the host name or the FQDN has a text in lower case.
func (n name) contains(text []byte) bool {
	if bytes.IndexByte(text, '\n') >= 0 { // not the one between
		return bytes.Contains(n.hostname(), text) || bytes.Contains(n.fqdn(), text)
	}
	return bytes.Contains(n.all, text)
}

// nameOf reads the name from a packed text into out, whose memory it takes.
func nameOf(text string, out []byte) name {
	u := unpacker{text}
	flags := u.byte()
	host, fqdn := u.text(), u.text()
	if flags&plainHost != 0 {
		out = append(out[:0], host...)
	} else {
		out = appendLower(out[:0], host)
	}
	n := len(out)
	switch flags & (fqdnKind | plainFQDN) {
	case fqdnBelow | plainFQDN:
		out = append(append(out, '.'), fqdn...)
	case fqdnBelow:
		out = appendLower(append(out, '.'), fqdn)
	case fqdnOther, fqdnOther | plainFQDN:
		out = joinFQDN(appendLower(append(out, '\n'), fqdn), n)
	}
	return name{out, n}
}

// hostEnds reports whether the host name of a packed text ends with some
// characters in lower case.
func hostEnds(text string, end []byte) bool {
	u := unpacker{text[1:]}
	host := u.text()
	if text[0]&plainHost == 0 {
		var scratch [64]byte
		return bytes.HasSuffix(appendLower(scratch[:0], host), end)
	}
	return len(host) >= len(end) && host[len(host)-len(end):] == string(end)
}

// joinFQDN takes away what a host name of n bytes and the FQDN behind it share
// but for the case of letters.
func joinFQDN(out []byte, n int) []byte {
	host, fqdn := out[:n], out[n+1:]
	if len(fqdn) < n || string(fqdn[:n]) != string(host) {
		return out
	}
	if len(fqdn) == n {
		return host
	}
	if n > 0 && fqdn[n] != '.' || n == 0 {
		return out
	}
	return append(host, fqdn[n:]...)
}
