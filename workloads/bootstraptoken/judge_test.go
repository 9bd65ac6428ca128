package bootstraptoken

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/bootstrap/token"
	"knarr.dev/knarr/workloads/steady/steadytest"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func secret(id, expires string, signs bool) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + id},
		Type:       corev1.SecretTypeBootstrapToken,
		Data:       map[string][]byte{"token-id": []byte(id), "token-secret": []byte("0123456789abcdef")},
	}
	if expires != "" {
		s.Data["expiration"] = []byte(expires)
	}
	if signs {
		s.Data["usage-bootstrap-signing"] = []byte("true")
	}
	return s
}

func TestRemaining(t *testing.T) {
	tests := map[string]struct {
		expires string
		left    time.Duration
		ends    bool
	}{
		"no end":                    {},
		"an end nobody can read":    {expires: "tomorrow"},
		"an end to come":            {expires: "2026-01-02T03:05:05Z", left: time.Minute, ends: true},
		"an end in another zone":    {expires: "2026-01-02T05:05:05+02:00", left: time.Minute, ends: true},
		"an end that has come":      {expires: "2026-01-02T03:04:05Z", ends: true},
		"an end that has long been": {expires: "2020-01-02T03:04:05Z", ends: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if left, ends := remaining(secret("abcdef", tc.expires, false), now); left != tc.left || ends != tc.ends {
				t.Errorf("remaining() = %v, %v; want %v, %v", left, ends, tc.left, tc.ends)
			}
		})
	}
}

func TestSigners(t *testing.T) {
	renamed := secret("abcdef", "", true)
	renamed.Name = "bootstrap-token-other0"
	opaque := secret("abcdef", "", true)
	opaque.Type = corev1.SecretTypeOpaque
	empty := secret("abcdef", "", true)
	delete(empty.Data, "token-secret")
	tests := map[string]struct {
		token *corev1.Secret
		want  int
	}{
		"a token that signs":         {secret("abcdef", "", true), 1},
		"one that only logs in":      {secret("abcdef", "", false), 0},
		"one that has expired":       {secret("abcdef", "2020-01-02T03:04:05Z", true), 0},
		"one of another's name":      {renamed, 0},
		"a Secret of another type":   {opaque, 0},
		"a token without its secret": {empty, 0},
		"one that has yet to expire": {secret("abcdef", "2030-01-02T03:04:05Z", true), 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := signers([]corev1.Secret{*tc.token}, now); len(got) != tc.want {
				t.Errorf("signers() = %d, want %d", len(got), tc.want)
			}
		})
	}
}

func TestSign(t *testing.T) {
	tokens := signers([]corev1.Secret{*secret("abcdef", "", true)}, now)
	signature := tokens[0].Sign("config")
	tests := map[string]struct {
		data   map[string]string
		tokens []*token.Grant
		want   map[string]string
	}{
		"a config is signed":                 {map[string]string{"kubeconfig": "config"}, tokens, map[string]string{"kubeconfig": "config", "jws-kubeconfig-abcdef": signature}},
		"a signed one is left alone":         {map[string]string{"kubeconfig": "config", "jws-kubeconfig-abcdef": signature}, tokens, nil},
		"a signature of a gone token goes":   {map[string]string{"kubeconfig": "config", "jws-kubeconfig-gone00": "x"}, nil, map[string]string{"kubeconfig": "config"}},
		"a wrong signature is put right":     {map[string]string{"kubeconfig": "config", "jws-kubeconfig-abcdef": "x"}, tokens, map[string]string{"kubeconfig": "config", "jws-kubeconfig-abcdef": signature}},
		"without a config nothing is signed": {map[string]string{"other": "x"}, tokens, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, sign(tc.data, tc.tokens)); diff != "" {
				t.Errorf("sign() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReconcile(t *testing.T) {
	info := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "config"}}
	c := fake.NewClientBuilder().WithObjects(info, secret("ending", "2026-01-02T03:05:05Z", true), secret("ended0", "2020-01-02T03:04:05Z", true), secret("always", "", false)).Build()
	clock := testclock.NewFakePassiveClock(now)
	r := &Reconciler{client: c, tokens: c, clock: clock}
	pass := func() (after time.Duration, secrets, entries int) {
		t.Helper()
		result, err := r.Reconcile(t.Context(), everything)
		if err != nil {
			t.Fatal(err)
		}
		var all corev1.SecretList
		if err := c.List(t.Context(), &all); err != nil {
			t.Fatal(err)
		}
		var signed corev1.ConfigMap
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(info), &signed); err != nil {
			t.Fatal(err)
		}
		return result.RequeueAfter, len(all.Items), len(signed.Data)
	}
	if after, secrets, entries := pass(); after != time.Minute || secrets != 2 || entries != 2 {
		t.Errorf("first: again in %v, %d tokens, %d entries", after, secrets, entries)
	}
	clock.SetTime(now.Add(time.Minute))
	if after, secrets, entries := pass(); after != 0 || secrets != 1 || entries != 1 {
		t.Errorf("a minute later: again in %v, %d tokens, %d entries", after, secrets, entries)
	}
}

func TestAJumpOfTheClockDeletesNoToken(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			c := fake.NewClientBuilder().WithObjects(secret("ending", "2026-01-02T03:05:05Z", true)).Build()
			r := &Reconciler{client: c, tokens: c, clock: steadytest.Jumped(now, by)}
			result, err := r.Reconcile(t.Context(), everything)
			if err != nil || result.RequeueAfter != time.Minute {
				t.Errorf("Reconcile() = %v, %v", result.RequeueAfter, err)
			}
			var left corev1.SecretList
			if err := c.List(t.Context(), &left); err != nil || len(left.Items) != 1 {
				t.Errorf("%d tokens left, %v", len(left.Items), err)
			}
		})
	}
}
