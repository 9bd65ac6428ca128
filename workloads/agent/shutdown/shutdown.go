// Package shutdown lets pods end before the machine does (graceful node shutdown, KEP-2000 and KEP-2712).
//
// In:       systemd-logind's word, over D-Bus, that the machine is about to go down; how long pods of which priority get.
// Out:      the notice others ask about (the node is not Ready, new pods are refused); pods ended as Failed with the reason
//
//	Terminated, the least important first.
//
// Promise:  the machine waits for that, as long as logind lets anything wait; a shutdown that is called off is forgotten.
// Not here: knarr's own end, which ends no pod; how a pod ends (workloads/agent/pod).
package shutdown

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/workloads/agent/pressure"
)

// Notice says whether the machine is going down.
type Notice struct{ underway atomic.Bool }

// Underway: is the machine about to go down?
func (n *Notice) Underway() bool { return n.underway.Load() }

// Pods of this node; workloads/agent/pod has them.
type Pods interface {
	Holding() []pressure.Pod
	Evict(uid types.UID, eviction pressure.Eviction) bool
	// Told: has the pod ended, and does the API know?
	Told(uid types.UID) bool
}

// Config of the component.
type Config struct {
	Steps   []Step // at least one
	Notice  *Notice
	Pods    Pods
	Changed func() // the notice says something else now
	Bus     func(...dbus.ConnOption) (*dbus.Conn, error)
	Log     *slog.Logger
}

// Shutdown is the component.
type Shutdown struct {
	conf Config
	log  *slog.Logger
}

// New makes the component that Run will start. Without Bus it is the system's.
func New(conf Config) *Shutdown {
	if conf.Bus == nil {
		conf.Bus = dbus.ConnectSystemBus
	}
	return &Shutdown{conf: conf, log: conf.Log.With("component", "graceful shutdown")}
}

// Name of the component.
func (s *Shutdown) Name() string { return "graceful shutdown" }

// reconnect is how long it waits before it looks for a bus that went away: nothing is lost but the wait of a shutdown.
const reconnect = 30 * time.Second

// Run listens until ctx ends. A machine without logind runs on without: its pods end as it goes down.
func (s *Shutdown) Run(ctx context.Context, ready func()) error {
	ready()
	for said := ""; ctx.Err() == nil; {
		err := s.listen(ctx)
		if err != nil && err.Error() != said {
			said = err.Error()
			s.log.Warn("pods will not get the time to end that shutdownGracePeriod promises; is systemd-logind running?", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconnect):
		}
	}
	return nil
}

const (
	logind  = "org.freedesktop.login1"
	manager = logind + ".Manager"
	place   = dbus.ObjectPath("/org/freedesktop/login1")
	going   = "PrepareForShutdown"
)

// listen holds the machine's shutdown up, and acts when it comes, until ctx ends or the bus goes away.
func (s *Shutdown) listen(ctx context.Context) error {
	bus, err := s.conf.Bus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("connect to the system's D-Bus: %w", err)
	}
	defer bus.Close()
	signals := make(chan *dbus.Signal, 10)
	bus.Signal(signals)
	if err := bus.AddMatchSignalContext(ctx, dbus.WithMatchInterface(manager), dbus.WithMatchMember(going), dbus.WithMatchObjectPath(place)); err != nil {
		return fmt.Errorf("listen for the machine's shutdown: %w", err)
	}
	object := bus.Object(logind, place)
	s.checkDelay(object)
	lock, err := inhibit(ctx, object)
	if err != nil {
		return err
	}
	defer func() { lock.release() }()
	call, ended := func() {}, (<-chan struct{})(nil)
	defer func() { call() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
			lock.release() // the machine may go
			ended = nil
		case signal, open := <-signals:
			if !open {
				return errors.New("the system's D-Bus went away")
			}
			underway, ok := saysGoing(signal)
			if !ok || underway == s.conf.Notice.Underway() {
				continue
			}
			call() // what was under way
			s.conf.Notice.underway.Store(underway)
			s.conf.Changed()
			if !underway {
				s.log.Info("the machine's shutdown was called off")
				ended = nil
				lock.release()
				if lock, err = inhibit(ctx, object); err != nil {
					return err
				}
				continue
			}
			s.log.Info("the machine is going down; its pods end")
			call, ended = s.begin(ctx)
		}
	}
}

func saysGoing(signal *dbus.Signal) (underway, ok bool) {
	if signal.Name != manager+"."+going || len(signal.Body) != 1 {
		return false, false
	}
	underway, ok = signal.Body[0].(bool)
	return underway, ok
}

// checkDelay tells when logind will not wait as long as pods may take.
func (s *Shutdown) checkDelay(object dbus.BusObject) {
	value, err := object.GetProperty(manager + ".InhibitDelayMaxUSec")
	most, ok := value.Value().(uint64)
	if err != nil || !ok {
		return // it will wait or not
	}
	var wanted time.Duration
	for _, step := range s.conf.Steps {
		wanted += step.Grace
	}
	if limit := time.Duration(most) * time.Microsecond; limit < wanted {
		s.log.Warn("systemd-logind waits for a shorter time than shutdownGracePeriod: set InhibitDelayMaxSec in /etc/systemd/logind.conf.d/knarr.conf, [Login], and restart it",
			"it waits", limit, "pods get", wanted)
	}
}

// wait until everything is told is looked at so often, only while the machine goes down.
const glance = 50 * time.Millisecond

// begin ends the pods beside the caller, who may call it off.
func (s *Shutdown) begin(ctx context.Context) (callOff func(), ended <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		s.end(ctx)
	}()
	return cancel, done
}

// end brings the pods to their end, wave after wave, until ctx ends.
func (s *Shutdown) end(ctx context.Context) {
	for _, w := range waves(s.conf.Steps, s.conf.Pods.Holding()) {
		s.log.Info("pods end because the machine goes down", "pods", len(w.pods), "from priority", w.Priority, "within", w.Grace)
		for _, pod := range w.pods {
			s.conf.Pods.Evict(pod.UID, pressure.Eviction{
				Reason: "Terminated", Message: "Pod was terminated in response to imminent node shutdown.",
				Grace: w.graceOf(pod.Pod), Disrupted: true,
			})
		}
		if !s.await(ctx, w) {
			return
		}
	}
}

// await returns when a wave has ended or its time is over, false when ctx has ended.
func (s *Shutdown) await(ctx context.Context, w wave) bool {
	ctx, cancel := context.WithTimeout(ctx, w.Grace)
	defer cancel()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for {
		left := 0
		for _, pod := range w.pods {
			if !s.conf.Pods.Told(pod.UID) {
				left++
			}
		}
		if left == 0 {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				s.log.Warn("pods did not end in the time they had", "pods", left, "from priority", w.Priority)
				return true
			}
			return false
		}
	}
}
