package endpoint

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rc4" //nolint:staticcheck // malware uses it, so queries have to undo it
	"fmt"
	"io"
	"math"
	"strings"

	"raptorpack/vql"
)

type rc4Args struct {
	String string `vql:"string,required" doc:"What to encrypt or decrypt."`
	Key    string `vql:"key,required" doc:"The key, 1 to 256 bytes."`
}

var cryptoRC4Function = vql.NewFunction(vql.Spec{
	Name: "crypto_rc4", Doc: "Encrypts or decrypts a string with RC4.",
}, func(_ context.Context, _ *vql.Scope, args *rc4Args) (vql.Value, error) {
	cipher, err := rc4.NewCipher([]byte(args.Key))
	if err != nil {
		return nil, err
	}
	out := make([]byte, len(args.String))
	cipher.XORKeyStream(out, []byte(args.String))
	return string(out), nil
})

type stringArgs struct {
	String string `vql:"string,required" doc:"The text."`
}

var entropyFunction = vql.NewFunction(vql.Spec{
	Name: "entropy", Doc: "The Shannon entropy of a string's bytes, 0 to 8 bits.",
}, func(_ context.Context, _ *vql.Scope, args *stringArgs) (vql.Value, error) {
	return shannon(args.String), nil
})

func shannon(text string) float64 {
	var counts [256]int
	for i := range len(text) {
		counts[text[i]]++
	}
	sum := 0.0
	for _, n := range counts {
		if n > 0 {
			p := float64(n) / float64(len(text))
			sum -= p * math.Log2(p)
		}
	}
	return sum
}

type rot13Args struct {
	String string `vql:"string" doc:"The text."`
}

var rot13Function = vql.NewFunction(vql.Spec{
	Name: "rot13", Doc: "Turns each letter by 13 places; the same again turns it back.",
}, func(_ context.Context, _ *vql.Scope, args *rot13Args) (vql.Value, error) {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return 'a' + (r-'a'+13)%26
		case r >= 'A' && r <= 'Z':
			return 'A' + (r-'A'+13)%26
		}
		return r
	}, args.String), nil
})

type gunzipArgs struct {
	String   string `vql:"string,required" doc:"What to decompress."`
	MaxBytes int64  `vql:"max_bytes" doc:"Stop after so many bytes (8 MiB)."`
}

const (
	defaultGunzip = 8 << 20
	maxGunzip     = 256 << 20
)

var gunzipFunction = vql.NewFunction(vql.Spec{
	Name: "gunzip", Doc: "Decompresses a gzip string. What stands before damage is given, with a log line.",
}, func(_ context.Context, scope *vql.Scope, args *gunzipArgs) (vql.Value, error) {
	limit := args.MaxBytes
	if limit <= 0 {
		limit = defaultGunzip
	}
	limit = min(limit, maxGunzip)
	r, err := gzip.NewReader(strings.NewReader(args.String))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(r, limit+1))
	if n > limit {
		out.Truncate(int(limit))
		err = fmt.Errorf("cut after %d bytes", limit)
	}
	if err != nil && out.Len() == 0 {
		return nil, err
	}
	if err != nil {
		scope.Log(vql.LevelWarn, "gunzip: %v", err)
	}
	return out.String(), nil
})
