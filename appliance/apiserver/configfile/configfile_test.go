package configfile

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apiserver/pkg/apis/apiserver"
)

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		write := func(content string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(every + time.Millisecond) // of the bubble
			synctest.Wait()
		}
		var used []string
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			Follow(ctx, path, []byte("one"), func(_ context.Context, content []byte) error {
				used = append(used, string(content))
				if string(content) == "wrong" {
					return errors.New("wrong")
				}
				return nil
			})
		}()
		for _, content := range []string{"one", "two", "two", "wrong", "wrong", "two", "three"} {
			write(content)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * every)
		write("three")
		stop()
		<-done
		if want := []string{"two", "wrong", "wrong", "three"}; !slices.Equal(used, want) {
			t.Errorf("used %q; want %q", used, want)
		}
	})
}

func TestDecode(t *testing.T) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\n"
	tests := map[string]struct {
		content string
		ok      bool
	}{
		"the kind that is wanted": {head + "kind: AuthorizationConfiguration\nauthorizers: []\n", true},
		"an older version of it":  {"apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthorizationConfiguration\nauthorizers: []\n", true},
		"another kind":            {head + "kind: AuthenticationConfiguration\njwt: []\n", false},
		"a field nobody knows":    {head + "kind: AuthorizationConfiguration\nspeed: 7\n", false},
		"no kind":                 {"authorizers: []\n", false},
		"nothing":                 {"", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := Decode[*apiserver.AuthorizationConfiguration]([]byte(tc.content)); (err == nil) != tc.ok {
				t.Errorf("Decode() = %v; want accepted = %v", err, tc.ok)
			}
		})
	}
}
