package machine

import (
	"context"
	"time"

	"k8s.io/client-go/kubernetes"
)

const (
	// healthEvery is how often the API server of this machine is asked, where several may share an address. A machine that dies
	// is missed sooner, by its heartbeats; this is for one that lives and whose API server does not answer.
	healthEvery = 2 * time.Second
	// healthWithin is how long it may take: a datastore without quorum answers nothing.
	healthWithin = 2 * time.Second
)

// apiHealth says whether the API server of this machine answers.
type apiHealth struct {
	client kubernetes.Interface
	say    func(answers bool)
}

func (h apiHealth) Name() string { return "api health" }

// Run is ready at once: the address is announced when the server answers.
func (h apiHealth) Run(ctx context.Context, ready func()) error {
	ready()
	ticker := time.NewTicker(healthEvery)
	defer ticker.Stop()
	for {
		h.say(h.answers(ctx))
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (h apiHealth) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, healthWithin)
	defer cancel()
	_, err := h.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return err == nil
}
