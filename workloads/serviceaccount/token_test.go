package serviceaccount

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

type signer struct{}

func (signer) Sign(account *corev1.ServiceAccount, secret string) (string, error) {
	return "token of " + string(account.UID) + " in " + secret, nil
}

func TestTokens(t *testing.T) {
	named := func(uid string) map[string]string {
		annotations := map[string]string{corev1.ServiceAccountNameKey: "builder"}
		if uid != "" {
			annotations[corev1.ServiceAccountUIDKey] = uid
		}
		return annotations
	}
	secret := func(annotations map[string]string, data map[string]string) *corev1.Secret {
		s := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "key", UID: "secret-1", Annotations: annotations},
			Type:       corev1.SecretTypeServiceAccountToken,
		}
		for key, value := range data {
			if s.Data == nil {
				s.Data = map[string][]byte{}
			}
			s.Data[key] = []byte(value)
		}
		return s
	}
	account := func(uid string, secrets ...string) *corev1.ServiceAccount {
		a := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "builder", UID: types.UID(uid)}}
		for _, name := range secrets {
			a.Secrets = append(a.Secrets, corev1.ObjectReference{Name: name})
		}
		return a
	}
	full := map[string]string{"ca.crt": "the CA", "namespace": "shop", "token": "token of sa-1 in key"}
	tests := map[string]struct {
		objects []client.Object
		data    map[string]string // nil: the Secret is gone
		listed  []string          // Secrets of the account afterwards
	}{
		"a new one gets its token": {
			objects: []client.Object{secret(named(""), nil), account("sa-1")}, data: full,
		},
		"one that is complete stays": {
			objects: []client.Object{secret(named("sa-1"), full), account("sa-1")}, data: full,
		},
		"a token that is there is not replaced": {
			objects: []client.Object{secret(named("sa-1"), map[string]string{"token": "in use"}), account("sa-1")},
			data:    map[string]string{"ca.crt": "the CA", "namespace": "shop", "token": "in use"},
		},
		"what else is in it stays, and a wrong CA does not": {
			objects: []client.Object{secret(named("sa-1"), map[string]string{"token": "in use", "ca.crt": "an old CA", "note": "mine"}), account("sa-1")},
			data:    map[string]string{"ca.crt": "the CA", "namespace": "shop", "token": "in use", "note": "mine"},
		},
		"it goes with its account":                               {objects: []client.Object{secret(named("sa-1"), full)}},
		"it goes with its account, though another took the name": {objects: []client.Object{secret(named("sa-0"), full), account("sa-1")}},
		"one for an account there never was goes":                {objects: []client.Object{secret(named(""), nil)}},
		"one that is gone is taken off its account":              {objects: []client.Object{account("sa-1", "key", "other")}, listed: []string{"other"}},
		"one of another type stays on its account": {
			objects: []client.Object{account("sa-1", "key"), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "key"}, Type: corev1.SecretTypeOpaque}},
			data:    map[string]string{}, listed: []string{"key"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := fake.NewClientBuilder().WithObjects(tc.objects...).Build()
			r := &Tokens{client: c, fresh: c, secrets: tokenSecrets{c}, ca: []byte("the CA"), signer: signer{}}
			for range 2 { // the second pass changes nothing
				if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "key"}}); err != nil {
					t.Fatal(err)
				}
			}
			var found corev1.Secret
			err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "key"}, &found)
			if client.IgnoreNotFound(err) != nil {
				t.Fatal(err)
			}
			if gone := apierrors.IsNotFound(err); gone != (tc.data == nil) {
				t.Fatalf("the Secret is gone: %v", gone)
			}
			data := map[string]string{}
			for key, value := range found.Data {
				data[key] = string(value)
			}
			if tc.data == nil {
				tc.data = map[string]string{}
			}
			if diff := cmp.Diff(tc.data, data); diff != "" {
				t.Errorf("data (-want +got):\n%s", diff)
			}
			if tc.listed == nil {
				return
			}
			var builder corev1.ServiceAccount
			if err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "builder"}, &builder); err != nil {
				t.Fatal(err)
			}
			var listed []string
			for _, ref := range builder.Secrets {
				listed = append(listed, ref.Name)
			}
			if diff := cmp.Diff(tc.listed, listed); diff != "" {
				t.Errorf("the account's Secrets (-want +got):\n%s", diff)
			}
		})
	}
}

// tokenSecrets is a cache that holds Secrets of the one type.
type tokenSecrets struct{ client.Reader }

func (t tokenSecrets) Get(ctx context.Context, key client.ObjectKey, into client.Object, options ...client.GetOption) error {
	if err := t.Reader.Get(ctx, key, into, options...); err != nil {
		return err
	}
	if secret := into.(*corev1.Secret); secret.Type != corev1.SecretTypeServiceAccountToken {
		return apierrors.NewNotFound(corev1.Resource("secrets"), key.Name)
	}
	return nil
}

func TestAnAccountThatWasJustMadeKeepsItsSecret(t *testing.T) {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "key", Annotations: map[string]string{corev1.ServiceAccountNameKey: "builder"}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}
	old := fake.NewClientBuilder().WithObjects(secret).Build()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "builder", UID: "sa-1"}}
	r := &Tokens{client: old, fresh: fake.NewClientBuilder().WithObjects(account).Build(), secrets: old, ca: []byte("the CA"), signer: signer{}}
	if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(secret)}); err != nil {
		t.Fatal(err)
	}
	var found corev1.Secret
	if err := old.Get(t.Context(), client.ObjectKeyFromObject(secret), &found); err != nil || len(found.Data["token"]) == 0 {
		t.Errorf("%v, %v; want a token", found.Data, err)
	}
}
