package heartbeat

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"

	"knarr.dev/knarr/bootstrap/durable"
)

// Annotation is where a node's public key is, on its Node object. Only the node itself and administrators may write it.
const Annotation = "knarr.dev/heartbeat-key"

// flags are what a machine says of itself and of the one it says it to.
type flags byte

const (
	counts   flags = 1 << iota // the receiver is here, as far as the sender knows
	missed                     // the sender had lost the receiver, or still has
	leaving                    // the sender is about to fall silent
	standing                   // the sender may be chosen
	serving                    // the sender's API server answers
)

// message is one heartbeat. Times are the sender's own, in nanoseconds since a moment it drew at random.
type message struct {
	sent  uint64
	echo  uint64 // the last time that arrived from the receiver
	flags flags
}

// A datagram: magic, the sender's short name, the message, its seal.
const (
	magic     = "knh1"
	shortSize = 8
	bodySize  = len(magic) + shortSize + 8 + 8 + 1
	sealSize  = 16
	size      = bodySize + sealSize
)

// short is what a datagram names its sender by.
type short [shortSize]byte

func shortOf(key *ecdh.PublicKey) short {
	sum := sha256.Sum256(key.Bytes())
	return short(sum[:shortSize])
}

// seals are what two machines know and nobody else does: one key for each direction, so that nothing can be sent back.
type seals struct{ out, in hash.Hash }

func newSeals(own *ecdh.PrivateKey, peer *ecdh.PublicKey) (seals, error) {
	secret, err := own.ECDH(peer)
	if err != nil {
		return seals{}, fmt.Errorf("agree on a key: %w", err)
	}
	one := func(from, to *ecdh.PublicKey) (hash.Hash, error) {
		key, err := hkdf.Key(sha256.New, secret, nil, "knarr heartbeat "+string(from.Bytes())+string(to.Bytes()), sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("derive a key: %w", err)
		}
		return hmac.New(sha256.New, key), nil
	}
	out, err := one(own.PublicKey(), peer)
	if err != nil {
		return seals{}, err
	}
	in, err := one(peer, own.PublicKey())
	return seals{out: out, in: in}, err
}

// pack is the datagram of a message.
func (s seals) pack(from short, m message) []byte {
	packet := append(append(make([]byte, 0, size), magic...), from[:]...)
	packet = binary.BigEndian.AppendUint64(packet, m.sent)
	packet = binary.BigEndian.AppendUint64(packet, m.echo)
	packet = append(packet, byte(m.flags))
	return append(packet, sum(s.out, packet)...)
}

// sender is who a datagram says it is from; ok is false for what is no heartbeat.
func sender(packet []byte) (from short, ok bool) {
	if len(packet) != size || string(packet[:len(magic)]) != magic {
		return short{}, false
	}
	return short(packet[len(magic):]), true
}

// open reads a datagram of the peer's; ok is false when somebody else sealed it.
func (s seals) open(packet []byte) (m message, ok bool) {
	if !hmac.Equal(sum(s.in, packet[:bodySize]), packet[bodySize:]) {
		return message{}, false
	}
	at := bytes.NewReader(packet[len(magic)+shortSize:])
	_ = binary.Read(at, binary.BigEndian, &m.sent) // of a packet of the right length
	_ = binary.Read(at, binary.BigEndian, &m.echo)
	return message{sent: m.sent, echo: m.echo, flags: flags(packet[bodySize-1])}, true
}

func sum(seal hash.Hash, body []byte) []byte {
	seal.Reset()
	_, _ = seal.Write(body) // a hash never fails
	return seal.Sum(nil)[:sealSize]
}

// LoadKey reads this machine's key, or makes one and keeps it: neighbours know the public half, also while nobody could
// tell them of another.
func LoadKey(path string) (*ecdh.PrivateKey, error) {
	content, err := os.ReadFile(path)
	if err == nil {
		if key, err := ecdh.X25519().NewPrivateKey(content); err == nil {
			return key, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the key for heartbeats: %w", err)
	}
	key, err := ecdh.X25519().GenerateKey(rand.Reader) // also instead of one that is damaged: it is published again
	if err != nil {
		return nil, fmt.Errorf("make a key for heartbeats: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for the key for heartbeats: %w", err)
	}
	if err := durable.Write(path, key.Bytes(), 0o600); err != nil {
		return nil, fmt.Errorf("keep the key for heartbeats: %w", err)
	}
	return key, nil
}

// FormatKey is a public key as its annotation has it.
func FormatKey(key *ecdh.PublicKey) string { return base64.StdEncoding.EncodeToString(key.Bytes()) }

// ParseKey reads an annotation; ok is false where there is none, or none that could be a key.
func ParseKey(text string) (key *ecdh.PublicKey, ok bool) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, false
	}
	key, err = ecdh.X25519().NewPublicKey(raw)
	return key, err == nil
}
