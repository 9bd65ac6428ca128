package pressure

import (
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
)

const (
	lookEvery = 10 * time.Second
	soon      = time.Second      // while something was done that must show first
	patience  = 30 * time.Second // with a pod that was told to go, before the next one is
	grace     = 1                // second; a pod's own grace is for better times
	// share is how much longer than a count of a pod's files took it takes until the next: one hundredth of a core.
	share = 100
)

// Garbage is what can be had back of the disk without a pod's loss; workloads/agent/garbage collects it.
type Garbage interface {
	CollectAll(ctx context.Context) error
}

// Config of a keeper.
type Config struct {
	NodeName string
	Gauge    *Gauge
	Meter    Meter
	Pods     Pods
	Garbage  Garbage
	Changed  func() // the node has other conditions now
	Events   record.EventRecorder
	Log      *slog.Logger
}

// Keeper is the component that acts on pressure and on pods' limits of local storage.
type Keeper struct {
	conf Config
	log  *slog.Logger

	victims   map[types.UID]time.Time // told to go, and when
	counted   map[types.UID]time.Time // by pod with limits: not to be counted again before
	cleaned   bool                    // garbage was collected for the shortage there is
	announced map[Signal]bool
}

// NewKeeper makes a keeper that Run will start.
func NewKeeper(conf Config) *Keeper {
	return &Keeper{
		conf: conf, log: conf.Log.With("component", "pressure"),
		victims: map[types.UID]time.Time{}, counted: map[types.UID]time.Time{}, announced: map[Signal]bool{},
	}
}

// Name of the component.
func (k *Keeper) Name() string { return "pressure" }

// Run looks every ten seconds until ctx ends, and more often only while it acts.
func (k *Keeper) Run(ctx context.Context, ready func()) error {
	ready()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		timer.Reset(k.Pass(ctx))
	}
}

// Pass looks once, does one thing about what it sees, and says when to look again.
func (k *Keeper) Pass(ctx context.Context) time.Duration {
	now := time.Now()
	reading := k.conf.Gauge.Read()
	short := k.conf.Gauge.thresholds.Short(reading)
	if k.conf.Gauge.note(now, short) {
		k.conf.Changed()
	}
	k.announce(short)
	if len(short) == 0 {
		k.cleaned = false
	}
	pods := k.conf.Pods.Holding()
	if k.enforce(ctx, pods, now) {
		return soon
	}
	if len(short) == 0 {
		return lookEvery
	}
	if short[0].Signal.ofDisk() && !k.cleaned {
		k.cleaned = true
		if err := k.conf.Garbage.CollectAll(ctx); err != nil && ctx.Err() == nil {
			k.log.Warn("make room on the disk before pods have to go", "error", err)
		}
		return soon
	}
	if k.waiting(pods, now) {
		return soon
	}
	if k.evictOne(ctx, short[0], reading.Shared, pods, now) {
		k.cleaned = false // what it leaves is garbage
		return soon
	}
	return lookEvery
}

// announce tells of a shortage once.
func (k *Keeper) announce(short []Shortage) {
	seen := map[Signal]bool{}
	for _, s := range short {
		seen[s.Signal] = true
		if k.announced[s.Signal] {
			continue
		}
		k.log.Warn("the node runs out of a resource", "signal", s.Signal, "threshold", s.Threshold, "available", s.Available)
		about := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: k.conf.NodeName, UID: types.UID(k.conf.NodeName)}
		k.conf.Events.Eventf(about, corev1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", s.Signal.resource())
	}
	k.announced = seen
}

// enforce ends pods that are above their own limits of local storage.
func (k *Keeper) enforce(ctx context.Context, pods []Pod, now time.Time) (acted bool) {
	var layers map[string]Amount
	next := map[types.UID]time.Time{}
	for _, pod := range pods {
		if pod.Ending || critical(pod.Pod) || !limited(pod.Pod) {
			continue
		}
		if due := k.counted[pod.UID]; now.Before(due) {
			next[pod.UID] = due
			continue
		}
		if layers == nil {
			var err error
			if layers, err = k.conf.Meter.layers(ctx); err != nil {
				if ctx.Err() == nil {
					k.log.Warn("some pods' limits of local storage are held for their volumes and logs only", "error", err)
				}
				layers = map[string]Amount{}
			}
		}
		began := time.Now()
		use := k.conf.Meter.disk(ctx, pod, layers)
		took := time.Since(began)
		if ctx.Err() != nil {
			return false
		}
		next[pod.UID] = now.Add(share * took)
		if why := exceeded(pod.Pod, use); why != "" {
			acted = k.evict(pod, Eviction{Reason: Reason, Message: why, Grace: grace}, now) || acted
		}
	}
	k.counted = next
	return acted
}

// waiting: is a pod that was told to go still there, and not for too long?
func (k *Keeper) waiting(pods []Pod, now time.Time) bool {
	there := map[types.UID]bool{}
	for _, pod := range pods {
		there[pod.UID] = true
	}
	wait := false
	for uid, since := range k.victims {
		if !there[uid] || now.Sub(since) >= patience {
			delete(k.victims, uid)
			continue
		}
		wait = true
	}
	return wait
}

// evictOne ends the pod whose end helps most.
func (k *Keeper) evictOne(ctx context.Context, short Shortage, shared bool, pods []Pod, now time.Time) bool {
	measured, err := k.measure(ctx, short.Signal, pods)
	if err != nil {
		if ctx.Err() == nil {
			k.log.Warn("measure pods, to end the one that takes most", "signal", short.Signal, "error", err)
		}
		return false
	}
	for _, p := range rank(short, shared, measured) {
		if k.evict(p.Pod, Eviction{Reason: Reason, Message: explain(short, p), Grace: grace, Disrupted: true}, now) {
			return true
		}
	}
	return false
}

func (k *Keeper) measure(ctx context.Context, signal Signal, pods []Pod) ([]Measured, error) {
	var layers map[string]Amount
	if signal.ofDisk() {
		var err error
		if layers, err = k.conf.Meter.layers(ctx); err != nil {
			return nil, err
		}
	}
	out := make([]Measured, 0, len(pods))
	for _, pod := range pods {
		m := Measured{Pod: pod, Known: true}
		switch {
		case signal.ofDisk():
			m.Use = k.conf.Meter.disk(ctx, pod, layers)
		case len(pod.Running) > 0: // a pod that runs nothing may have no group yet, and takes nothing
			m.Use, m.Known = k.conf.Meter.memory(pod)
		}
		out = append(out, m)
	}
	return out, ctx.Err()
}

func (k *Keeper) evict(pod Pod, eviction Eviction, now time.Time) bool {
	if !k.conf.Pods.Evict(pod.UID, eviction) {
		return false
	}
	k.victims[pod.UID] = now
	k.log.Warn("pod evicted", "pod", pod.Namespace+"/"+pod.Name, "why", eviction.Message)
	return true
}
