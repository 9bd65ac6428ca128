package command

import (
	"path/filepath"
	"strings"
	"testing"

	"knarr.dev/knarr/bootstrap/keyring"
)

// ringIn is the keys of a cluster in a phase of a rotation from knarr-1 to knarr-2.
func ringIn(t *testing.T, phase keyring.Phase) keyring.Ring {
	t.Helper()
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	if _, err := keyring.Ensure(path); err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.Update(path, func(r keyring.Ring) (keyring.Ring, error) {
		if phase == keyring.Settled {
			return r, nil
		}
		return r.Announce()
	})
	if err != nil {
		t.Fatal(err)
	}
	if phase == keyring.Rewriting {
		ring = ring.Promote()
	}
	return ring
}

func TestRotated(t *testing.T) {
	tests := map[string]struct {
		phase  keyring.Phase
		counts map[string]int
		want   bool
		err    string
	}{
		"not before the key writes":             {phase: keyring.Announced, counts: map[string]int{"knarr-1": 2}},
		"not before the key writes, even empty": {phase: keyring.Announced},
		"not while an old key is needed":        {phase: keyring.Rewriting, counts: map[string]int{"knarr-2": 2, "knarr-1": 1}},
		"not while one is not encrypted":        {phase: keyring.Rewriting, counts: map[string]int{"knarr-2": 2, "": 1}},
		"when all are":                          {phase: keyring.Rewriting, counts: map[string]int{"knarr-2": 3}, want: true},
		"when there are none":                   {phase: keyring.Rewriting, want: true},
		"never with a key that is not here":     {phase: keyring.Rewriting, counts: map[string]int{"theirs": 3}, err: "3 Secrets were encrypted with key theirs"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := rotated(tc.counts, ringIn(t, tc.phase), "knarr-2")
			if got != tc.want || (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("rotated() = %v, %v; want %v, %q", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestShowSecrets(t *testing.T) {
	tests := map[string]struct {
		phase  keyring.Phase
		counts map[string]int
		want   string
	}{
		"settled": {keyring.Settled, map[string]int{"knarr-1": 12}, "" +
			"KEY       USE                SECRETS\n" +
			"knarr-1   writes and reads   12\n"},
		"in the middle of a rotation, with some from before and from elsewhere": {keyring.Rewriting, map[string]int{"knarr-1": 1, "": 2, "theirs": 3}, "" +
			"KEY       USE                SECRETS\n" +
			"knarr-2   writes and reads   0\n" +
			"knarr-1   reads              1\n" +
			"-         not encrypted      2\n" +
			"theirs    not ours           3\n" +
			"A rotation is under way; old keys go some ten minutes after the last Secret was rewritten.\n"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if err := showSecrets(&out, ringIn(t, tc.phase), tc.counts); err != nil || out.String() != tc.want {
				t.Errorf("showSecrets() = %v, printed\n%s\nwant\n%s", err, out.String(), tc.want)
			}
		})
	}
}
