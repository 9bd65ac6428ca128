package machine

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// shareMetrics lets two libraries in one process register the same collector: etcd and containerd both count gRPC
// calls under go-grpc-prometheus's names and panic when the other was first. The first one's numbers are shown.
func shareMetrics() {
	if _, done := prometheus.DefaultRegisterer.(tolerant); !done {
		prometheus.DefaultRegisterer = tolerant{prometheus.DefaultRegisterer}
	}
}

type tolerant struct{ prometheus.Registerer }

func (t tolerant) MustRegister(collectors ...prometheus.Collector) {
	for _, c := range collectors {
		var already prometheus.AlreadyRegisteredError
		if err := t.Register(c); err != nil && !errors.As(err, &already) {
			panic(err) // as the one it replaces: a programmer's mistake
		}
	}
}
