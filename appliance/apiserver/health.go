package apiserver

import (
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/server/healthz"

	"knarr.dev/knarr/appliance/apiserver/persistence"
)

// checkedFor is how long an answer of the datastore is good for: health is asked by anybody, as often as they like.
const checkedFor = time.Second

// datastoreCheck is the health check "etcd".
func datastoreCheck(connection *persistence.Connection) healthz.HealthChecker {
	var mu sync.Mutex
	var checked time.Time
	var last error
	return healthz.NamedCheck("etcd", func(r *http.Request) error {
		mu.Lock()
		defer mu.Unlock()
		if last != nil || time.Since(checked) > checkedFor {
			last, checked = connection.Check(r.Context()), time.Now()
		}
		return last
	})
}
