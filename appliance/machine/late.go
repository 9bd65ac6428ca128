package machine

import (
	"context"
	"log/slog"
	"time"
)

// controlPatience is how long a server's node waits for the control plane beside it. After that it starts with the pods it
// remembers and those of its own files: a slow disk, or a datastore whose other members are away, keeps no pod down.
const controlPatience = 5 * time.Second

// late is a component of the control plane, which the stages after it can do without for a while.
type late struct {
	Component
	needs  <-chan struct{} // closed when what it needs serves; nil: it needs nothing
	serves chan struct{}   // closed when it serves
	until  time.Time       // so long the stages after it wait
	log    *slog.Logger
}

// Run is ready when the component is, or when nobody is to wait for it any longer.
func (l *late) Run(ctx context.Context, ready func()) error {
	goOn := time.AfterFunc(time.Until(l.until), func() {
		if l.needs == nil {
			l.log.Warn("it does not serve yet; this machine's node starts with what it remembers", "component", l.Name(), "patience", controlPatience)
		}
		ready()
	})
	defer goOn.Stop()
	if l.needs != nil {
		select {
		case <-l.needs:
		case <-ctx.Done():
			return nil
		}
	}
	return l.Component.Run(ctx, func() {
		goOn.Stop()
		close(l.serves)
		ready()
	})
}

// late makes a component of the control plane that needs no other.
func (b *builder) late(c Component) *late {
	return &late{Component: c, serves: make(chan struct{}), until: time.Now().Add(controlPatience), log: b.log}
}

// then makes one that needs l.
func (l *late) then(c Component) *late {
	return &late{Component: c, needs: l.serves, serves: make(chan struct{}), until: l.until, log: l.log}
}
