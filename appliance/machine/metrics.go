package machine

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
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

// nodeMetrics are what a node shows of what this process counts: the network's. The rest is the control plane's and the
// runtime's, with names that others may have registered for themselves as well.
var nodeMetrics = picked{prometheus.DefaultGatherer, []string{"coredns_", "kubeproxy_", "knarr_"}}

// picked are the metrics whose names begin so.
type picked struct {
	from     prometheus.Gatherer
	prefixes []string
}

func (p picked) Gather() ([]*dto.MetricFamily, error) {
	all, err := p.from.Gather()
	if err != nil {
		err = fmt.Errorf("gather metrics: %w", err)
	}
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool {
		return !slices.ContainsFunc(p.prefixes, func(prefix string) bool { return strings.HasPrefix(f.GetName(), prefix) })
	}), err
}
