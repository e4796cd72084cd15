package wire

import "errors"

var (
	// ErrMalformed means that bytes are not what the protocol describes.
	// Trying the same bytes again does not help.
	ErrMalformed = errors.New("malformed packet")

	// ErrForged means that a packet is well formed but not from whom it
	// says: MAC, nonce, source, signature or certificate does not hold.
	// Trying again does not help.
	ErrForged = errors.New("packet is not authentic")

	// ErrTooLarge means that something exceeds its bound, before or after
	// inflation. Trying again does not help.
	ErrTooLarge = errors.New("packet exceeds a size limit")

	// ErrBusy means that the dear operations (private key, memory) are taken.
	// Trying again later helps.
	ErrBusy = errors.New("no capacity left for this packet now")

	// ErrNoKey is what a KeyLookup returns when it knows that a client has no
	// key. Any other error of a KeyLookup means that it cannot tell.
	ErrNoKey = errors.New("client has no known key")

	// ErrUnsure means that the KeyLookup could not tell whether the client has
	// a key. Trying again later helps.
	ErrUnsure = errors.New("key of the client cannot be looked up now")

	// ErrBadRequest means that an enrolment request does not hold: its
	// signature, name, source or key. Trying again does not help.
	ErrBadRequest = errors.New("enrolment request does not hold")

	// ErrClosed means that a connection was closed, by either side.
	ErrClosed = errors.New("connection is closed")
)
