package bootstraptoken

import (
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/bootstrap/token"
)

const (
	contentKey = "kubeconfig"
	signedFor  = "jws-kubeconfig-" // and the token's ID
)

// remaining is how long a token lives on; ends is false for one that lives for ever, or whose end nobody can read:
// that one opens no door either.
func remaining(secret *corev1.Secret, now time.Time) (left time.Duration, ends bool) {
	end, err := token.Expiration(secret)
	if err != nil || end.IsZero() {
		return 0, false
	}
	return max(0, end.Sub(now)), true
}

// signers are the tokens that vouch for the cluster.
func signers(secrets []corev1.Secret, now time.Time) []*token.Grant {
	var found []*token.Grant
	for i := range secrets {
		grant, err := token.FromSecret(&secrets[i])
		if err == nil && grant.Signing && !grant.Expired(now) && secrets[i].DeletionTimestamp == nil {
			found = append(found, grant)
		}
	}
	return found
}

// sign is the data of the ConfigMap with one signature of its kubeconfig for each token; nil when it is that already.
func sign(data map[string]string, tokens []*token.Grant) map[string]string {
	content, ok := data[contentKey]
	if !ok {
		return nil // nothing to vouch for
	}
	next := map[string]string{}
	for key, value := range data {
		if !strings.HasPrefix(key, signedFor) {
			next[key] = value
		}
	}
	for _, t := range tokens {
		next[signedFor+t.ID] = t.Sign(content)
	}
	if maps.Equal(data, next) {
		return nil
	}
	return next
}
