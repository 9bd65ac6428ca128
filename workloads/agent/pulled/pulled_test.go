package pulled

import (
	"os"
	"path/filepath"
	"testing"

	"knarr.dev/knarr/workloads/agent/credentials"
)

const image, name = "sha256:1", "registry.example/app"

func login(kind credentials.Kind, uid, password string) credentials.Login {
	return credentials.Login{Username: "u", Password: password, From: credentials.Source{Kind: kind, UID: uid, Namespace: "default", Name: "s"}}
}

func TestWhoMayHaveAnImage(t *testing.T) {
	secret, other := login(credentials.Secret, "1", "right"), login(credentials.Secret, "2", "wrong")
	tests := map[string]struct {
		pulls  []*credentials.Login // nil: without a login
		as     string
		has    []credentials.Login
		needs  bool
		allows bool
	}{
		"an image nobody pulled is everybody's":            {as: name},
		"one that was pulled without a login is, too":      {pulls: []*credentials.Login{nil}, as: name, allows: true},
		"a login of the machine is every pod's":            {pulls: []*credentials.Login{{From: credentials.Source{Kind: credentials.Machine}}}, as: name, allows: true},
		"a secret's image needs a login":                   {pulls: []*credentials.Login{&secret}, as: name, needs: true},
		"the same secret will do":                          {pulls: []*credentials.Login{&secret}, as: name, has: []credentials.Login{secret}, needs: true, allows: true},
		"another secret will not":                          {pulls: []*credentials.Login{&secret}, as: name, has: []credentials.Login{other}, needs: true},
		"another secret with the same words will":          {pulls: []*credentials.Login{&secret}, as: name, has: []credentials.Login{login(credentials.Secret, "3", "right")}, needs: true, allows: true},
		"a secret that holds other words now will not":     {pulls: []*credentials.Login{&secret}, as: name, has: []credentials.Login{login(credentials.Secret, "1", "new")}, needs: true},
		"another name of the same image is another matter": {pulls: []*credentials.Login{nil}, as: "registry.other/app", needs: true},
		"a service account's passwords change": {
			pulls: []*credentials.Login{new(login(credentials.Account, "a", "one"))}, as: name, has: []credentials.Login{login(credentials.Account, "a", "two")}, needs: true, allows: true,
		},
		"once open, a later secret does not close it": {pulls: []*credentials.Login{nil, &secret}, as: name, allows: true},
	}
	for what, tc := range tests {
		t.Run(what, func(t *testing.T) {
			r := In(filepath.Join(t.TempDir(), "images"))
			for _, with := range tc.pulls {
				if err := r.Pulling(name); err != nil {
					t.Fatal(err)
				}
				if err := r.Pulled(image, name, with); err != nil {
					t.Fatal(err)
				}
			}
			if needs, err := r.NeedsLogin(image, tc.as); needs != tc.needs || err != nil {
				t.Errorf("needs a login: %v, %v; want %v", needs, err, tc.needs)
			}
			if allowed, err := r.Allows(image, tc.as, tc.has); allowed != tc.allows || err != nil {
				t.Errorf("allowed: %v, %v; want %v", allowed, err, tc.allows)
			}
		})
	}
}

func TestACrashDuringAPullLeavesNothingOpen(t *testing.T) {
	r := In(filepath.Join(t.TempDir(), "images"))
	if err := r.Pulling(name); err != nil {
		t.Fatal(err)
	}
	if needs, err := r.NeedsLogin(image, name); !needs || err != nil {
		t.Errorf("an image whose pull was cut short needs a login: %v, %v", needs, err)
	}
	if err := r.Failed(name); err != nil {
		t.Fatal(err)
	}
	if needs, _ := r.NeedsLogin(image, name); needs {
		t.Error("a pull that failed left something behind")
	}
	secret := login(credentials.Secret, "1", "right")
	if err := r.Pulled(image, name, &secret); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.file(image), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if needs, err := r.NeedsLogin(image, name); !needs || err == nil {
		t.Errorf("a record that cannot be read: needs a login: %v, %v", needs, err)
	}
	if err := r.Keep([]string{"sha256:2"}); err != nil {
		t.Fatal(err)
	}
	if needs, err := r.NeedsLogin(image, name); needs || err != nil {
		t.Errorf("an image that was removed and imported: needs a login: %v, %v", needs, err)
	}
}
