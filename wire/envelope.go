package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" // fixed by the protocol, sections 4.2 and 4.4
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/wirepb"
)

// APIVersion is the version of the message protocol that is spoken here; it is
// part of the MAC.
const APIVersion = 4

const (
	keySize = 16 // AES-128 key, IVs and the MAC key: protocol section 4.2
	macSize = sha1.Size
)

// Pad is the keep-alive filler of a held HTTP answer: a packet with nothing but
// padding (protocol section 3.2). Do not change its bytes.
var Pad = []byte{0x5a, 0x01, 0x00}

// properties are the secrets of one session.
type properties struct {
	key        [keySize]byte
	metadataIV [keySize]byte
	macKey     [keySize]byte
}

func newProperties() properties {
	var p properties
	rand.Read(p.key[:]) // never fails since Go 1.24
	rand.Read(p.metadataIV[:])
	rand.Read(p.macKey[:])
	return p
}

// marshal returns the bytes that are signed and sealed, fields ascending.
func (p *properties) marshal() ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(&wirepb.CipherProperties{
		Name: "aes_128_cbc", Key: p.key[:], MetadataIv: p.metadataIV[:],
		HmacKey: p.macKey[:], HmacType: wirepb.CipherProperties_FULL_HMAC,
	})
}

func parseProperties(plain []byte) (properties, error) {
	var p properties
	var m wirepb.CipherProperties
	if err := proto.Unmarshal(plain, &m); err != nil {
		return p, fmt.Errorf("cipher properties: %w", ErrMalformed)
	}
	if len(m.Key) != keySize || len(m.MetadataIv) != keySize || len(m.HmacKey) != keySize {
		return p, fmt.Errorf("cipher properties: key sizes %d, %d, %d: %w", len(m.Key), len(m.MetadataIv), len(m.HmacKey), ErrMalformed)
	}
	copy(p.key[:], m.Key)
	copy(p.metadataIV[:], m.MetadataIv)
	copy(p.macKey[:], m.HmacKey)
	return p, nil
}

// mac computes full_hmac of a packet.
func (p *properties) mac(o *outer) []byte {
	h := hmac.New(sha1.New, p.macKey[:])
	h.Write(o.encrypted)
	h.Write(o.cipher)
	h.Write(o.metadata)
	h.Write(o.iv)
	h.Write(binary.LittleEndian.AppendUint32(nil, o.version))
	return h.Sum(nil)
}

func (p *properties) checkMAC(o *outer) error {
	if len(o.mac) != macSize || !hmac.Equal(p.mac(o), o.mac) {
		return fmt.Errorf("packet MAC: %w", ErrForged)
	}
	return nil
}

// encrypt returns plain under the session's key, padded to whole blocks.
func (p *properties) encrypt(plain, iv []byte) ([]byte, error) {
	block, err := aes.NewCipher(p.key[:])
	if err != nil {
		return nil, fmt.Errorf("session key: %w", err)
	}
	fill := aes.BlockSize - len(plain)%aes.BlockSize
	sealed := make([]byte, len(plain)+fill)
	copy(sealed, plain)
	for i := len(plain); i < len(sealed); i++ {
		sealed[i] = byte(fill)
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(sealed, sealed)
	return sealed, nil
}

// decrypt works in place and returns the part of sealed that is plain text.
func (p *properties) decrypt(sealed, iv []byte) ([]byte, error) {
	if len(sealed) == 0 || len(sealed)%aes.BlockSize != 0 || len(iv) != aes.BlockSize {
		return nil, fmt.Errorf("ciphertext of %d bytes, iv of %d: %w", len(sealed), len(iv), ErrMalformed)
	}
	block, err := aes.NewCipher(p.key[:])
	if err != nil {
		return nil, fmt.Errorf("session key: %w", err)
	}
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(sealed, sealed)
	fill := int(sealed[len(sealed)-1])
	if fill < 1 || fill > aes.BlockSize {
		return nil, fmt.Errorf("padding of %d: %w", fill, ErrMalformed)
	}
	for _, b := range sealed[len(sealed)-fill:] {
		if int(b) != fill {
			return nil, fmt.Errorf("padding is uneven: %w", ErrMalformed)
		}
	}
	return sealed[:len(sealed)-fill], nil
}

// fingerprint is how caches name a session.
type fingerprint [sha256.Size]byte

func fingerprintOf(cipher []byte) fingerprint { return sha256.Sum256(cipher) }
