package apiserver

import (
	"fmt"
	"sync"

	"k8s.io/apiserver/pkg/features"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
)

// setFeatures turns off what the library does for very large clusters at a cost that each of its sixty watch caches
// pays at rest (goroutines, timers, lists of everything every few minutes), and what is done better here.
var setFeatures = sync.OnceValue(func() error {
	off := map[string]bool{
		string(features.DetectCacheInconsistency):    false, // compares caches with the datastore by listing both
		string(features.SizeBasedListCostEstimate):   false, // counts bytes, to let fewer lists in at once
		string(features.ConcurrentWatchObjectDecode): false, // two goroutines a cache
		string(features.APIResponseCompression):      false, // answers.Compress
	}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(off); err != nil {
		return fmt.Errorf("set features of the API server library: %w", err)
	}
	return nil
})
