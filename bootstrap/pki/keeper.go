package pki

import (
	"context"
	"log/slog"
	"time"
)

// lookEvery bounds how long a renewal can be late on a machine that slept: timers stand still meanwhile.
const lookEvery = 24 * time.Hour

// Keeper renews a server's certificates while it runs. Whoever names their files follows: the API server, the
// datastore, the node's API and clients made by RESTConfig look at them again.
type Keeper struct {
	dir     string
	want    Want
	renewed func(*PKI) error
	log     *slog.Logger
}

// NewKeeper keeps what Ensure made. renewed is told of new certificates, for those who hold a copy, such as kubeconfigs.
func NewKeeper(dir string, want Want, renewed func(*PKI) error, log *slog.Logger) *Keeper {
	return &Keeper{dir: dir, want: want, renewed: renewed, log: log}
}

// Name implements a component.
func (k *Keeper) Name() string { return "server certificates" }

// Run is ready at once and looks once a day.
func (k *Keeper) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		k.look()
	}
}

func (k *Keeper) look() {
	p, err := Ensure(k.dir, k.want)
	if err == nil && len(p.Issued) > 0 {
		k.log.Info("certificates renewed", "files", p.Issued)
		err = k.renewed(p)
	}
	if err != nil {
		k.log.Error("certificates not renewed; it is tried again tomorrow, and at each start", "err", err)
	}
}
