package wire_test

import (
	"bytes"
	"errors"
	"testing"

	"raptorpack/ids"
	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

// FuzzOpen gives a server any bytes, on a session that it knows and on one that
// it does not: refusals are of the kinds that are promised, nothing panics, and
// no changed packet passes for an authentic one.
func FuzzOpen(f *testing.F) {
	p := newPair(f, wire.OpenerOptions{MaxElement: 1 << 20, MaxPacket: 1 << 20}, wire.IdentityOptions{OperationsPerSecond: 1e9})
	p.keys.Set(&wiretest.ClientKey(f, 0).PublicKey)
	good := seal(f, p.session, checkIn(1))
	f.Add(good)
	f.Add(append(bytes.Clone(wire.Pad), good...))
	f.Add(wire.Pad)
	f.Add(good[:300])
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, body []byte) {
		p.opener.Recognises(body)
		packet, err := p.opener.Open(t.Context(), bytes.Clone(body))
		if err != nil {
			if !errors.Is(err, wire.ErrForged) && !errors.Is(err, wire.ErrMalformed) {
				t.Fatalf("unexpected kind: %v", err)
			}
			return
		}
		if packet.Client != p.session.Client() || packet.Org != ids.RootOrg || packet.Standing != wire.Known {
			t.Fatalf("packet %+v", packet)
		}
		if _, err := packet.Messages(); err != nil {
			t.Fatalf("an authentic packet does not decode: %v", err)
		}
	})
}

// FuzzLists gives the decoder behind the MAC any element, as a client with a key
// might.
func FuzzLists(f *testing.F) {
	p := newPair(f, wire.OpenerOptions{MaxElement: 1 << 20, MaxPacket: 1 << 20}, wire.IdentityOptions{})
	p.keys.Set(&wiretest.ClientKey(f, 0).PublicKey)
	f.Add([]byte{0x0a, 0x00}, false)
	f.Add(wire.Deflate([]byte{0x0a, 0x02, 0x0a, 0x00}), true)
	f.Add([]byte{0x0a, 0x04, 0x8a, 0x02, 0x7f, 0x00}, false)
	f.Fuzz(func(t *testing.T, element []byte, deflated bool) {
		body, err := p.session.SealPacked(deflated, element)
		if err != nil {
			t.Fatal(err)
		}
		packet := open(t, p.opener, body)
		for _, err := range packet.Lists(nil) {
			var e *wire.ElementError
			if err != nil && (!errors.As(err, &e) || !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, wire.ErrTooLarge)) {
				t.Fatalf("unexpected kind: %v", err)
			}
			if e != nil && !bytes.Equal(e.Raw, element) {
				t.Fatal("the error does not carry the element")
			}
		}
	})
}

func FuzzInflate(f *testing.F) {
	f.Add(wire.Deflate([]byte("plain")), int64(100))
	f.Add(wire.Deflate(make([]byte, 100_000)), int64(1000))
	f.Add([]byte{0x78, 0x9c}, int64(10))
	f.Fuzz(func(t *testing.T, stream []byte, limit int64) {
		limit = max(0, min(limit, 1<<20))
		reserved := int64(0)
		plain, err := wire.Inflate(stream, limit, func(n int64) error { reserved += n; return nil })
		switch {
		case err != nil && !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, wire.ErrTooLarge):
			t.Fatalf("unexpected kind: %v", err)
		case int64(len(plain)) > limit:
			t.Fatalf("%d bytes past the limit of %d", len(plain), limit)
		case reserved > 4*limit+4096:
			t.Fatalf("reserved %d for a limit of %d", reserved, limit)
		case err == nil:
			back, err := wire.Inflate(wire.Deflate(plain), limit, nil)
			if err != nil || !bytes.Equal(back, plain) {
				t.Fatalf("there and back: %v", err)
			}
		}
	})
}

func FuzzServerFrame(f *testing.F) {
	f.Add([]byte(`{"code":200,"err":"x","data":"WgEA"}`))
	f.Add([]byte(`{"code":"200"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		frame, err := wire.ParseFrame(text)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Fatalf("unexpected kind: %v", err)
			}
			return
		}
		back, err := wire.ParseFrame(frame.Append(nil))
		if err != nil || back.Code != frame.Code || back.Err != frame.Err || !bytes.Equal(back.Data, frame.Data) {
			t.Fatalf("there and back: %+v, %+v, %v", frame, back, err)
		}
	})
}

// FuzzAnswer gives an agent any bytes for an answer.
func FuzzAnswer(f *testing.F) {
	p := newPair(f, wire.OpenerOptions{}, wire.IdentityOptions{})
	good, err := p.sealer.Seal(f.Context(), wire.Delivery{Key: &wiretest.ClientKey(f, 0).PublicKey})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(append(good, wire.Pad...))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, err := p.session.Open(t.Context(), bytes.Clone(body))
		if err != nil && !errors.Is(err, wire.ErrForged) && !errors.Is(err, wire.ErrMalformed) {
			t.Fatalf("unexpected kind: %v", err)
		}
	})
}

func FuzzCSR(f *testing.F) {
	key := wiretest.ClientKey(f, 0)
	good, err := wire.NewCSR(key)
	if err != nil {
		f.Fatal(err)
	}
	client := ids.ClientOfKey(&key.PublicKey)
	f.Add(good)
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		public, err := wire.CheckCSR(text, client)
		if err == nil && !public.Equal(&key.PublicKey) {
			t.Fatal("another key for this id")
		}
		if err != nil && !errors.Is(err, wire.ErrBadRequest) {
			t.Fatalf("unexpected kind: %v", err)
		}
	})
}

func FuzzServerCertificate(f *testing.F) {
	d := wiretest.NewDeployment(f)
	f.Add(d.Server)
	f.Add(d.CA)
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := wire.CheckServer(text, d.Trust()); err != nil && !errors.Is(err, wire.ErrForged) && !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, wire.ErrTooLarge) {
			t.Fatalf("unexpected kind: %v", err)
		}
	})
}
