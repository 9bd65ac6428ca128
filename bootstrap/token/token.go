// Package token makes, reads and revokes join tokens.
//
// In:       a client of the cluster, on the side that gives tokens; the text an operator carried over, on the other.
// Out:      Secrets of type bootstrap.kubernetes.io/token in kube-system, and the text that stands for them.
// Promise:  printing or logging a Token never shows its secret.
// Not here: accepting a token as a login (appliance/apiserver/authn), joining with it (bootstrap/join).
//
// The text is
//
//	KNARR1.<pin>.<id>.<secret>
//
// with the fingerprint of the cluster's authority (pki.Pin, 43 characters), and the two halves of an ordinary
// Kubernetes bootstrap token (6 and 16 characters of a-z and 0-9). It is one word to a shell and to a double click, and every
// part has a fixed length, so that a cut-off copy is noticed before anything is sent. KNARR1 is the format's version.
package token

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
)

const (
	prefix       = "KNARR1"
	pinLength    = 43
	idLength     = 6
	secretLength = 16
	letters      = "abcdefghijklmnopqrstuvwxyz0123456789"
)

var word = regexp.MustCompile(`^[a-z0-9]+$`)

// Token lets a machine prove itself to the cluster, and the cluster to the machine.
type Token struct {
	Pin    string // pki.Pin of the cluster's authority
	ID     string // public: names the token
	secret string
}

// New makes a token for the cluster with that pin. It means nothing to the cluster before Create.
func New(pin string) Token {
	return Token{Pin: pin, ID: random(idLength), secret: random(secretLength)}
}

func random(length int) string {
	// Bytes beyond the last whole multiple of the alphabet are dropped: the remainder would favour its beginning.
	const limit = 256 - 256%len(letters)
	text := make([]byte, 0, length)
	for buffer := make([]byte, 2*length); len(text) < length; {
		rand.Read(buffer) // never fails
		for _, b := range buffer {
			if int(b) < limit && len(text) < length {
				text = append(text, letters[int(b)%len(letters)])
			}
		}
	}
	return string(text)
}

// Parse reads a token as `knarr token create` printed it. Its errors name the part that is wrong, never the text.
func Parse(text string) (Token, error) {
	const again = "copy the whole word that `knarr token create` printed"
	parts := strings.Split(strings.TrimSpace(text), ".")
	switch {
	case strings.TrimSpace(text) == "":
		return Token{}, errors.New("the token is empty: " + again)
	case parts[0] != prefix && strings.HasPrefix(parts[0], "KNARR"):
		return Token{}, errors.New("the token is of another version of knarr: use the same version on both machines")
	case parts[0] != prefix:
		return Token{}, fmt.Errorf("the token does not begin with %s.: %s", prefix, again)
	case len(parts) != 4:
		return Token{}, fmt.Errorf("the token has %d parts instead of 4: %s", len(parts), again)
	}
	t := Token{Pin: parts[1], ID: parts[2], secret: parts[3]}
	if raw, err := base64.RawURLEncoding.DecodeString(t.Pin); err != nil || len(t.Pin) != pinLength || len(raw) != 32 {
		return Token{}, errors.New("the token's second part is damaged: " + again)
	}
	if len(t.ID) != idLength || !word.MatchString(t.ID) {
		return Token{}, errors.New("the token's third part is damaged: " + again)
	}
	if len(t.secret) != secretLength || !word.MatchString(t.secret) {
		return Token{}, errors.New("the token's last part is damaged or cut off: " + again)
	}
	return t, nil
}

// Reveal is the whole text, for the operator who asked for it.
func (t Token) Reveal() string { return strings.Join([]string{prefix, t.Pin, t.ID, t.secret}, ".") }

// Bearer is what the API server takes as a login.
func (t Token) Bearer() string { return t.ID + "." + t.secret }

// String shows everything but the secret.
func (t Token) String() string {
	return strings.Join([]string{prefix, t.Pin, t.ID, "(hidden)"}, ".")
}

// GoString hides the secret from %#v as well.
func (t Token) GoString() string { return t.String() }

// LogValue hides the secret from log handlers that encode values themselves.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }
