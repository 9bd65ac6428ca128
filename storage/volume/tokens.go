package volume

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// tokenKey is one token: bound to a pod, for one audience and lifetime.
type tokenKey struct {
	pod      types.UID
	audience string
	seconds  int64
}

type heldToken struct {
	token  string
	issued time.Time
	ends   time.Time
}

// tokens asks the API for service account tokens and remembers them until it is time for the next.
type tokens struct {
	client kubernetes.Interface

	mu   sync.Mutex
	held map[tokenKey]heldToken
}

// get returns a token with enough life left, asking for a new one when there is none.
func (t *tokens) get(ctx context.Context, pod *corev1.Pod, source *corev1.ServiceAccountTokenProjection) (string, error) {
	held, err := t.hold(ctx, pod, source.Audience, ptr.Deref(source.ExpirationSeconds, 3600))
	return held.token, err
}

// forDriver is get for a driver of storage, which is told when the token ends.
func (t *tokens) forDriver(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (string, time.Time, error) {
	held, err := t.hold(ctx, pod, audience, seconds)
	return held.token, held.ends, err
}

func (t *tokens) hold(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (heldToken, error) {
	key := tokenKey{pod: pod.UID, audience: audience, seconds: seconds}
	t.mu.Lock()
	held, found := t.held[key]
	t.mu.Unlock()
	now := time.Now()
	if found && !due(held.issued, held.ends, now) {
		return held, nil
	}
	fresh, err := t.request(ctx, pod, audience, seconds)
	if err != nil {
		if found && now.Before(held.ends) {
			return held, nil // the next refresh asks again; until it ends the old one is as good
		}
		return heldToken{}, err
	}
	held = heldToken{token: fresh.Status.Token, issued: now, ends: fresh.Status.ExpirationTimestamp.Time}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held[key] = held
	return held, nil
}

func (t *tokens) request(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (*authenticationv1.TokenRequest, error) {
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	ask := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		// Bound: the token ends with the pod, however long its own life.
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		ask.Spec.Audiences = []string{audience}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	fresh, err := t.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, ask, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("failed to fetch token of serviceaccount %q: %w", account, err)
	}
	return fresh, nil
}

// forget drops a pod's tokens.
func (t *tokens) forget(pod types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.held {
		if key.pod == pod {
			delete(t.held, key)
		}
	}
}

// due says whether a token should be replaced: at 80 % of its life, and once a day however long that is.
func due(issued, ends, now time.Time) bool {
	life := ends.Sub(issued)
	return now.After(issued.Add(life*8/10)) || now.After(issued.Add(24*time.Hour))
}
