package authn

import (
	"crypto"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/go-jose/go-jose/v4"
)

// Where others find how to check our tokens.
const (
	ConfigurationPath = "/.well-known/openid-configuration"
	KeySetPath        = "/openid/v1/jwks"
)

// Discovery serves the two OpenID documents.
type Discovery struct{ configuration, keySet []byte }

// NewDiscovery describes an issuer whose tokens are signed with the keys. The key set's address is below the
// issuer's, because whoever could read the first document there can read the second.
func NewDiscovery(issuer string, keys ...crypto.PublicKey) (*Discovery, error) {
	set, algorithms := jose.JSONWebKeySet{}, []string{}
	for _, key := range keys {
		web, err := webKey(key)
		if err != nil {
			return nil, fmt.Errorf("publish service-account key: %w", err)
		}
		set.Keys, algorithms = append(set.Keys, web), append(algorithms, web.Algorithm)
	}
	configuration, err := json.Marshal(map[string]any{
		"issuer":                                issuer,
		"jwks_uri":                              issuer + KeySetPath,
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": algorithms,
	})
	if err != nil {
		return nil, fmt.Errorf("encode OpenID configuration: %w", err)
	}
	keySet, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encode key set: %w", err)
	}
	return &Discovery{configuration: configuration, keySet: keySet}, nil
}

// Install adds the handlers. Who may read them is a matter of authorization (ClusterRole system:service-account-issuer-discovery).
func (d *Discovery) Install(mux interface {
	Handle(path string, handler http.Handler)
}) {
	mux.Handle(ConfigurationPath, document(d.configuration, "application/json"))
	mux.Handle(KeySetPath, document(d.keySet, "application/jwk-set+json"))
}

func document(content []byte, mediaType string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Cache-Control", "public, max-age=3600") // a new key is published long before it is needed
		w.Write(content)
	})
}
