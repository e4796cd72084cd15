package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/wirepb"
)

// The vectors of the client protocol, section 16.1.

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func vectorProperties() properties {
	var p properties
	for i := range keySize {
		p.key[i], p.metadataIV[i], p.macKey[i] = byte(i), byte(0x10+i), byte(0x20+i)
	}
	return p
}

func digestIs(t *testing.T, what string, data []byte, want string) {
	t.Helper()
	if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != want {
		t.Errorf("%s: SHA-256 %x, want %s", what, got, want)
	}
}

func TestEnvelopeMatchesTheVectors(t *testing.T) {
	p := vectorProperties()
	properties, err := p.marshal()
	if err != nil {
		t.Fatal(err)
	}
	want := unhex(t, "0a0b6165735f3132385f6362631210000102030405060708090a0b0c0d0e0f1a10101112131415161718191a1b1c1d1e1f2a10202122232425262728292a2b2c2d2e2f3001")
	if !bytes.Equal(properties, want) {
		t.Errorf("CipherProperties %x, want %x", properties, want)
	}
	digestIs(t, "CipherProperties", properties, "16c27ed8b21245ea20c261a57d817287228ed123422d45732a61a9791d61cb22")

	metadata, err := proto.Marshal(&wirepb.CipherMetadata{Source: "C.0011223344556677", Signature: bytes.Repeat([]byte{0xaa}, 256)})
	if err != nil || len(metadata) != 279 {
		t.Fatalf("CipherMetadata of %d bytes, %v", len(metadata), err)
	}
	sealedMetadata, err := p.encrypt(metadata, p.metadataIV[:])
	if err != nil || len(sealedMetadata) != 288 {
		t.Fatalf("sealed CipherMetadata of %d bytes, %v", len(sealedMetadata), err)
	}
	digestIs(t, "sealed CipherMetadata", sealedMetadata, "d3095beaa195bb3fdc3089ae8a0e5555eb5806db7e9a1947c1bc65002d0cb56d")

	element, err := proto.Marshal(&wirepb.MessageList{Job: []*wirepb.VeloMessage{{
		SessionId: "E.Foreman", ForemanCheckin: &wirepb.ForemanCheckin{LastEventTableVersion: 1010},
	}}})
	if err != nil || !bytes.Equal(element, unhex(t, "0a110a09452e466f72656d616eda010310f207")) {
		t.Fatalf("MessageList %x, %v", element, err)
	}
	list, err := proto.Marshal(&wirepb.PackedMessageList{MessageList: [][]byte{element}, Timestamp: 1700000000000000, Nonce: "cHJvdG8xbm9uY2U="})
	if err != nil || len(list) != 48 {
		t.Fatalf("PackedMessageList of %d bytes, %v", len(list), err)
	}

	o := &outer{iv: make([]byte, keySize), cipher: bytes.Repeat([]byte{0x55}, 256), metadata: sealedMetadata, version: APIVersion}
	for i := range o.iv {
		o.iv[i] = byte(0x30 + i)
	}
	if o.encrypted, err = p.encrypt(list, o.iv); err != nil {
		t.Fatal(err)
	}
	wantEncrypted := unhex(t, "095bbc3d2b1421f5995426aa64e09adc6adac6347f5a3aa6f9ce6d5dbcbc7ca9b9099a8f1ca83c0f84855d1032ac992d035b626550d980c39b2c7554c01a0602")
	if !bytes.Equal(o.encrypted, wantEncrypted) {
		t.Errorf("encrypted %x, want %x", o.encrypted, wantEncrypted)
	}
	o.mac = p.mac(o)
	if !bytes.Equal(o.mac, unhex(t, "a81b2392d224683cca53875a7e6679c525f2b6d1")) {
		t.Errorf("full_hmac %x", o.mac)
	}
	body := o.append(nil)
	if len(body) != 658 {
		t.Errorf("ClientCommunication of %d bytes, want 658", len(body))
	}
	digestIs(t, "ClientCommunication", body, "666a1ab1a6f5f1a98b556ebea7cd4c62a073ad592ca38c66463bb34292b0ae45")

	back, err := scanOuter(append(append(bytes.Clone(Pad), body...), Pad...))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.checkMAC(&back); err != nil {
		t.Errorf("MAC after scanning: %v", err)
	}
	plain, err := p.decrypt(back.encrypted, back.iv)
	if err != nil || !bytes.Equal(plain, list) {
		t.Errorf("decrypted %x, %v", plain, err)
	}
}

func TestHeadFirstIsTheSamePacket(t *testing.T) {
	o := &outer{encrypted: []byte("e"), cipher: []byte("c"), metadata: []byte("m"), iv: []byte("i"), mac: []byte("h"), version: 4}
	back, err := scanOuter(o.appendHeadFirst(nil))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.append(nil), o.append(nil)) {
		t.Error("fields differ by their order on the wire")
	}
	if got := cipherInHead(o.appendHeadFirst(nil)[:4]); string(got) != "c" {
		t.Errorf("cipher in head: %q", got)
	}
	if got := cipherInHead(o.append(nil)[:2]); got != nil {
		t.Errorf("cipher found in a head without it: %q", got)
	}
}

func TestPadIsAnIdleAnswer(t *testing.T) {
	if !bytes.Equal(Pad, unhex(t, "5a0100")) {
		t.Errorf("pad %x", Pad)
	}
	o, err := scanOuter(bytes.Repeat(Pad, 7))
	if err != nil || !o.empty() {
		t.Errorf("seven pads: %+v, %v", o, err)
	}
}
