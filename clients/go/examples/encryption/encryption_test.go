package encryption

import (
	"bytes"
	"testing"
)

func TestSealed(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	sealed, err := Seal(key, "room", "alice", []byte("secret"))
	if err != nil || len(sealed) != 1+12+6+16 || sealed[0] != 1 {
		t.Fatal(sealed, err)
	}
	if payload, err := Open(key, "room", "alice", sealed); err != nil || string(payload) != "secret" {
		t.Fatal(payload, err)
	}
	other := bytes.Clone(sealed)
	other[20] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"room":   func() ([]byte, error) { return Open(key, "roo", "malice", sealed) },
		"sender": func() ([]byte, error) { return Open(key, "room", "bob", sealed) },
		"key":    func() ([]byte, error) { return Open(bytes.Repeat([]byte{8}, 32), "room", "alice", sealed) },
		"byte":   func() ([]byte, error) { return Open(key, "room", "alice", other) },
		"short":  func() ([]byte, error) { return Open(key, "room", "alice", sealed[:5]) },
	} {
		if _, err := open(); err == nil {
			t.Errorf("opened with another %s", name)
		}
	}
}
