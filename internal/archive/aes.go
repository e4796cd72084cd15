package archive

import (
	"archive/zip"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // the format's (WinZip AE-2)
	"encoding/binary"
	"errors"
	"fmt"
)

// The format is "AE-2: AES encryption information" by WinZip: salt, two bytes to tell a
// wrong password by, the encrypted bytes, ten bytes of HMAC-SHA1.
const (
	methodAES  = 99
	extraAES   = 0x9901
	strength   = 3 // AES-256
	keyBytes   = 32
	saltBytes  = 16
	checkBytes = 2
	macBytes   = 10
	iterations = 1000
	vendorAE1  = 1 // has a CRC of the plain bytes beside the code
	vendorAE2  = 2
	needAES    = 51 // version that is needed to extract

	// aesOverhead is how much longer an encrypted member is.
	aesOverhead = saltBytes + checkBytes + macBytes
)

// ErrPassword means that a member is encrypted and the password is missing or wrong.
var ErrPassword = errors.New("the password is missing or wrong")

// secrets are what a password and a salt make.
type secrets struct {
	block cipher.Block
	mac   []byte
	check [checkBytes]byte
}

func secretsOf(password string, salt []byte) (*secrets, error) {
	all, err := pbkdf2.Key(sha1.New, password, salt, iterations, 2*keyBytes+checkBytes)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	s := &secrets{mac: all[keyBytes : 2*keyBytes]}
	copy(s.check[:], all[2*keyBytes:])
	s.block, err = aes.NewCipher(all[:keyBytes])
	return s, err
}

// crypt encrypts or decrypts bytes that stand at a place of the stream, in place. The
// counter counts blocks from one, least significant byte first.
func (s *secrets) crypt(data []byte, at int64) {
	var counter, key [aes.BlockSize]byte
	skip := int(at % aes.BlockSize)
	for block := uint64(at/aes.BlockSize) + 1; len(data) > 0; block++ {
		binary.LittleEndian.PutUint64(counter[:], block)
		s.block.Encrypt(key[:], counter[:])
		for _, k := range key[skip:min(len(key), skip+len(data))] {
			data[0] ^= k
			data = data[1:]
		}
		skip = 0
	}
}

// aesExtra is the field of a member's header that says how it is encrypted.
func aesExtra(method uint16) []byte {
	out := binary.LittleEndian.AppendUint16(nil, extraAES)
	out = binary.LittleEndian.AppendUint16(out, 7)
	out = binary.LittleEndian.AppendUint16(out, vendorAE2)
	out = append(out, 'A', 'E', strength)
	return binary.LittleEndian.AppendUint16(out, method)
}

// encryption says how a member is encrypted: by which vendor version, and how it was
// compressed before.
func encryption(f *zip.File) (vendor, method uint16, err error) {
	for extra := f.Extra; len(extra) >= 4; {
		tag, size := binary.LittleEndian.Uint16(extra), int(binary.LittleEndian.Uint16(extra[2:]))
		if extra = extra[4:]; size > len(extra) {
			break
		}
		field := extra[:size]
		if extra = extra[size:]; tag != extraAES {
			continue
		}
		if size < 7 || string(field[2:4]) != "AE" || field[4] != strength {
			return 0, 0, fmt.Errorf("not encrypted by AES-256: %w", ErrUnsound)
		}
		vendor, method = binary.LittleEndian.Uint16(field), binary.LittleEndian.Uint16(field[5:])
		if vendor != vendorAE1 && vendor != vendorAE2 {
			return 0, 0, fmt.Errorf("encryption of version %d is not known: %w", vendor, ErrUnsound)
		}
		return vendor, method, nil
	}
	return 0, 0, fmt.Errorf("encrypted in a way that is not known: %w", ErrUnsound)
}

func newMAC(s *secrets) *macSum { return &macSum{hmac.New(sha1.New, s.mac)} }
