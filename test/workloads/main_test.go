// Package workloads_test runs the controllers and the scheduler on a real API server and datastore.
//
// In:       nothing but a temporary folder.
// Out:      stories in which every part but the node is real: a small stand-in plays the node agent.
// Promise:  each story has a namespace of its own, so stories may run side by side.
// Not here: containers and packets (test/e2e), the rules one by one (beside them).
package workloads_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"knarr.dev/knarr/appliance/apiserver/servertest"
	"knarr.dev/knarr/bootstrap/addresspool"
	"knarr.dev/knarr/bootstrap/watching"
	"knarr.dev/knarr/storage/localpath"
	"knarr.dev/knarr/workloads/bootstraptoken"
	"knarr.dev/knarr/workloads/cronjob"
	"knarr.dev/knarr/workloads/daemonset"
	"knarr.dev/knarr/workloads/deployment"
	"knarr.dev/knarr/workloads/disruption"
	"knarr.dev/knarr/workloads/dormant"
	"knarr.dev/knarr/workloads/endpointslice"
	"knarr.dev/knarr/workloads/ephemeralvolume"
	"knarr.dev/knarr/workloads/garbagecollector"
	"knarr.dev/knarr/workloads/horizontalpodautoscaler"
	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/job"
	"knarr.dev/knarr/workloads/loadbalancer"
	"knarr.dev/knarr/workloads/namespace"
	"knarr.dev/knarr/workloads/nodeipam"
	"knarr.dev/knarr/workloads/nodelifecycle"
	"knarr.dev/knarr/workloads/nodettl"
	"knarr.dev/knarr/workloads/persistentvolume"
	"knarr.dev/knarr/workloads/podgc"
	"knarr.dev/knarr/workloads/policystatus"
	"knarr.dev/knarr/workloads/protection"
	"knarr.dev/knarr/workloads/replicaset"
	"knarr.dev/knarr/workloads/replicationcontroller"
	"knarr.dev/knarr/workloads/resourceclaim"
	"knarr.dev/knarr/workloads/resourcequota"
	"knarr.dev/knarr/workloads/rootca"
	"knarr.dev/knarr/workloads/scheduler"
	"knarr.dev/knarr/workloads/serviceaccount"
	"knarr.dev/knarr/workloads/servicecidr"
	"knarr.dev/knarr/workloads/statefulset"
	"knarr.dev/knarr/workloads/steady"
	"knarr.dev/knarr/workloads/storagemigration"
	"knarr.dev/knarr/workloads/term"
	"knarr.dev/knarr/workloads/ttlafterfinished"
)

// api is the administrator's client; every story uses it.
var api client.WithWatch

// control is the controllers under test.
var control *process

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	dir, err := os.MkdirTemp("", "knarr-workloads-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	server, err := servertest.Start(dir)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if api, err = client.NewWithWatch(server.Admin(), client.Options{Scheme: scheme.Scheme}); err != nil {
		return 1, err
	}
	control = &process{server: server, disks: disks{filepath.Join(dir, "disks")}, log: log, began: time.Now()}
	if err := control.start(); err != nil {
		return 1, err
	}
	code = m.Run()
	return code, control.stop()
}

// process is all controllers, as if they were a process of their own: what it remembers goes with it.
type process struct {
	server *servertest.Server
	disks  disks
	log    *slog.Logger
	line   *line
	resync time.Duration // between two looks at everything; 0 for never
	stop   func() error

	began  time.Time
	passed atomic.Int64 // nanoseconds more than have
	wrong  atomic.Int64 // nanoseconds that the machine's clock was set off by
}

func (p *process) start() error {
	through, line := lay(p.server.Admin())
	through, p.line = watching.Through(through), line
	clock := steady.Of(steady.Sources{
		Wall:    func() time.Time { return time.Now().Add(time.Duration(p.passed.Load() + p.wrong.Load())) },
		Elapsed: func() time.Duration { return time.Since(p.began) + time.Duration(p.passed.Load()) },
		Kept:    func() bool { return false },
	}, p.log)
	options := cache.Options{DefaultTransform: cache.TransformStripManagedFields()}
	if p.resync > 0 {
		options.SyncPeriod = &p.resync
	}
	shared, err := cache.New(through, options)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := indexes.Register(ctx, shared); err != nil {
		cancel()
		return err
	}
	led := term.Config{API: through, Cache: shared, Log: p.log}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return shared.Start(ctx) })
	registered := make(chan struct{})
	group.Go(func() error {
		return led.Run(ctx, func(ctx context.Context, mgr manager.Manager) error {
			err := p.register(ctx, mgr, clock)
			if err == nil {
				close(registered)
			}
			return err
		})
	})
	p.stop = func() error { cancel(); return group.Wait() }
	select {
	case <-registered:
		return nil
	case <-ctx.Done():
		return p.stop()
	}
}

func (p *process) restart(t *testing.T) {
	t.Helper()
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
}

func (p *process) register(ctx context.Context, mgr manager.Manager, clock *steady.Clock) error {
	quotas, err := resourcequota.Register(mgr, clock)
	if err != nil {
		return err
	}
	placing, err := scheduler.ReadConfig("")
	if err != nil {
		return err
	}
	begin := make(chan struct{})
	pool, err := addresspool.Parse("192.0.2.1-192.0.2.9")
	if err != nil {
		return err
	}
	asleep := dormant.New(p.log)
	for resource, start := range map[schema.GroupResource]func() error{
		corev1.Resource("secrets"):                                      func() error { return bootstraptoken.Register(mgr, clock) },
		networkingv1.Resource("servicecidrs"):                           func() error { return servicecidr.Register(mgr, clock) },
		storagemigrationv1.Resource("storageversionmigrations"):         func() error { return storagemigration.Register(mgr, clock) },
		admissionregistrationv1.Resource("validatingadmissionpolicies"): func() error { return policystatus.Register(mgr) },
		corev1.Resource("services"):                                     func() error { return loadbalancer.Register(ctx, mgr, pool) },
	} {
		asleep.Add(&dormant.Sleeper{Name: resource.String(), Resources: []schema.GroupResource{resource}, Start: start})
	}
	asleep.Add(&dormant.Sleeper{
		Name: "resource claims", Start: func() error { return resourceclaim.Register(mgr) },
		Resources: []schema.GroupResource{resourcev1.Resource("resourceclaims"), resourcev1.Resource("resourceclaimtemplates")},
	})
	everything := garbagecollector.Listener{Seen: asleep.Seen, Gone: quotas.Gone}
	close(begin)
	return errors.Join(
		replicaset.Register(mgr, clock),
		replicationcontroller.Register(mgr, clock),
		statefulset.Register(mgr, clock),
		daemonset.Register(mgr, clock),
		deployment.Register(mgr, clock),
		endpointslice.Register(mgr),
		namespace.Register(mgr, clock),
		garbagecollector.Register(mgr, begin, p.log, everything),
		serviceaccount.Register(mgr),
		rootca.Register(mgr, p.server.PKI.ClusterCA.CertPEM),
		nodeipam.Register(mgr, []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}),
		nodelifecycle.Register(mgr, clock),
		nodettl.Register(mgr),
		podgc.Register(mgr, clock, p.log),
		persistentvolume.Register(mgr),
		localpath.Register(mgr, p.disks),
		localpath.Offer(mgr),
		scheduler.Register(mgr, placing, p.log),
		cronjob.Register(mgr, clock),
		disruption.Register(mgr, clock),
		job.Register(mgr, clock),
		ttlafterfinished.Register(mgr, clock),
		horizontalpodautoscaler.Register(mgr, clock),
		protection.Register(mgr),
		ephemeralvolume.Register(mgr),
		mgr.Add(&standIn{client: api}),
	)
}
