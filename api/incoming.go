package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"net/http"
	"time"
)

// bodyWithin bounds how long the body of a request may take to come.
const bodyWithin = 30 * time.Second

// incoming is a request's body on its way to the handler, with a hash of what was
// asked: of method, address and all that was read.
type incoming struct {
	io.ReadCloser
	hash  hash.Hash
	whole func() // called when the body has come
}

type incomingKey struct{}

// receive watches the bodies of requests. The bound on reading one is taken away
// once it is there: left in place it would end the request while it is worked on,
// since net/http goes on reading to learn whether the caller is still there.
func receive(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in := &incoming{ReadCloser: r.Body, hash: sha256.New(), whole: func() {
			// A connection that knows no deadlines has none to take away.
			_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		}}
		io.WriteString(in.hash, r.Method+" "+r.URL.RequestURI()+"\n") // a hash never fails
		r = r.WithContext(context.WithValue(r.Context(), incomingKey{}, in))
		r.Body = in
		next.ServeHTTP(w, r)
	})
}

// Read implements io.Reader.
func (in *incoming) Read(p []byte) (int, error) {
	n, err := in.ReadCloser.Read(p)
	in.hash.Write(p[:n])
	if err == io.EOF {
		in.whole()
	}
	return n, err
}

// requestID is what the ledger remembers a request by: a hash of its key and of
// what was asked, so that a key that is used again for something else is not taken
// for a repeat. The key itself is not kept: with it, a password in a body could be
// guessed at from the ledger.
func requestID(ctx context.Context, w Writing) string {
	all := sha256.New()
	io.WriteString(all, w.Key+"\n") // a hash never fails
	if in, ok := ctx.Value(incomingKey{}).(*incoming); ok {
		all.Write(in.hash.Sum(nil))
	}
	return hex.EncodeToString(all.Sum(nil))
}
