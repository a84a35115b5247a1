// Package encryption shows how programs hide payloads from the service and from NATS. A message that one of the
// clients of unibus has sealed this way can be opened by all others.
//
// Its limits: there is no key exchange, so the key must be given to the programs in another way. One key is good for
// 2^32 messages, since the nonces are random. Nothing stops the service from repeating, reordering or dropping
// messages. The sender is the one that the service has verified (Message.Sender).
package encryption

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
)

const version = 1

// Seal encrypts a payload with a key of 32 bytes, so that it can be opened only as a message of this sender in this
// room.
func Seal(key []byte, room, sender string, payload []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	sealed := make([]byte, 1+aead.NonceSize(), 1+aead.NonceSize()+len(payload)+aead.Overhead())
	sealed[0] = version
	rand.Read(sealed[1:]) // never fails
	return aead.Seal(sealed, sealed[1:], payload, binding(room, sender)), nil
}

// Open decrypts what Seal returned. It fails if the key, the room, the sender or a byte differs.
func Open(key []byte, room, sender string, sealed []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	begin := 1 + aead.NonceSize()
	if len(sealed) < begin || sealed[0] != version {
		return nil, errors.New("encryption: not a sealed payload")
	}
	return aead.Open(nil, sealed[1:begin], sealed[begin:], binding(room, sender))
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != 32 {
		return nil, errors.New("encryption: the key must have 32 bytes")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// binding is the associated data: each id with its length, so that no two pairs have the same bytes.
func binding(room, sender string) []byte {
	var data []byte
	for _, id := range []string{room, sender} {
		data = binary.BigEndian.AppendUint16(data, uint16(len(id)))
		data = append(data, id...)
	}
	return data
}
