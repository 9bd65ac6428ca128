package election

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/servertest"
)

func held(by string, seconds int32) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "test", ResourceVersion: "1"},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &by, LeaseDurationSeconds: &seconds, LeaseTransitions: ptr.To(int32(3))},
	}
}

func TestJudge(t *testing.T) {
	silent := held("b", 40)
	silent.Spec.LeaseDurationSeconds = nil
	tests := map[string]struct {
		lease     *coordinationv1.Lease
		unchanged time.Duration
		want      time.Duration
	}{
		"a lease that does not exist is free":               {},
		"a lease that was given back is free":               {lease: held("", 40)},
		"our own is ours, however old":                      {lease: held("a", 40), unchanged: time.Hour},
		"another's is left alone for its duration":          {lease: held("b", 40), unchanged: 10 * time.Second, want: 30 * time.Second},
		"another's that stood still for its duration is up": {lease: held("b", 40), unchanged: 40 * time.Second},
		"one without a duration lasts a while too":          {lease: silent, want: together},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := judge(tc.lease, "a", tc.unchanged); got != tc.want {
				t.Errorf("judge() = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestClaim(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := map[string]struct {
		lease       *coordinationv1.Lease
		single      bool
		seconds     int32
		transitions *int32
		acquired    bool
	}{
		"the first lease of a cluster":                 {single: true, seconds: 40, acquired: true},
		"a renewal keeps its beginning":                {lease: held("a", 40), single: true, seconds: 40, transitions: ptr.To(int32(3))},
		"a renewal is for less when there is another":  {lease: held("a", 40), seconds: 15, transitions: ptr.To(int32(3))},
		"taking it over from another is a transition":  {lease: held("b", 15), seconds: 15, transitions: ptr.To(int32(4)), acquired: true},
		"taking it up after it was given back is also": {lease: held("", 15), seconds: 15, transitions: ptr.To(int32(4)), acquired: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := claim(tc.lease, "test", "a", tc.single, now).Spec
			if *got.HolderIdentity != "a" || *got.LeaseDurationSeconds != tc.seconds || !got.RenewTime.Time.Equal(now) || !ptr.Equal(got.LeaseTransitions, tc.transitions) || (got.AcquireTime != nil) != tc.acquired {
				t.Errorf("claim() = %+v", got)
			}
		})
	}
}

// versioned is a client that keeps versions as the API server does; the library's fake takes any update.
func versioned(objects ...runtime.Object) *fake.Clientset {
	client := fake.NewClientset(objects...)
	last := 100
	client.PrependReactor("*", "leases", func(action clienttesting.Action) (bool, runtime.Object, error) {
		write, ok := action.(clienttesting.CreateActionImpl)
		if ok {
			last++
			write.GetObject().(*coordinationv1.Lease).ResourceVersion = strconv.Itoa(last)
			return false, nil, nil
		}
		update, ok := action.(clienttesting.UpdateActionImpl)
		if !ok {
			return false, nil, nil
		}
		lease := update.GetObject().(*coordinationv1.Lease)
		have, err := client.Tracker().Get(action.GetResource(), lease.Namespace, lease.Name)
		if err != nil {
			return true, nil, err
		}
		if have.(*coordinationv1.Lease).ResourceVersion != lease.ResourceVersion {
			return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), lease.Name, errors.New("old"))
		}
		last++
		lease.ResourceVersion = strconv.Itoa(last)
		return false, nil, nil
	})
	return client
}

// player is a candidate that runs, and what came of it.
type player struct {
	leads bool
	since time.Time
	stop  func()
}

func play(t *testing.T, client kubernetes.Interface, name string) *player {
	ctx, cancel := context.WithCancel(t.Context())
	p := &player{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := New(client.CoordinationV1(), "test", name, slog.New(slog.DiscardHandler)).Run(ctx, func(ctx context.Context) error {
			p.leads, p.since = true, time.Now()
			<-ctx.Done()
			p.leads = false
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}()
	p.stop = func() { cancel(); <-done }
	return p
}

func TestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := versioned()
		a := play(t, client, "a")
		synctest.Wait()
		b := play(t, client, "b")
		defer b.stop()
		for range 100 {
			time.Sleep(time.Second)
			synctest.Wait()
			if !a.leads || b.leads {
				t.Fatalf("a leads: %v, b leads: %v", a.leads, b.leads)
			}
		}
		a.stop()
		synctest.Wait()
		if a.leads || !b.leads {
			t.Fatalf("after a stopped: a leads: %v, b leads: %v", a.leads, b.leads)
		}
	})
}

func TestADeadLeaderIsReplacedWhateverTheTimeOfDay(t *testing.T) {
	for name, off := range map[string]time.Duration{"right clocks": 0, "a clock a year behind": -365 * 24 * time.Hour, "a clock a year ahead": 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dead := held("dead", 40)
				dead.Spec.RenewTime = ptr.To(metav1.NewMicroTime(time.Now().Add(off)))
				began := time.Now()
				a := play(t, versioned(dead), "a")
				defer a.stop()
				time.Sleep(time.Minute)
				synctest.Wait()
				if took := a.since.Sub(began); !a.leads || took < 40*time.Second || took > 41*time.Second {
					t.Errorf("leads: %v, after %v", a.leads, took)
				}
			})
		})
	}
}

func TestARestartedLeaderGoesOnAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		a := play(t, versioned(held("a", 40)), "a")
		defer a.stop()
		synctest.Wait()
		if !a.leads || a.since != began {
			t.Errorf("leads: %v, after %v", a.leads, a.since.Sub(began))
		}
	})
}

func TestALeaderStopsWhenTheLeaseIsAnothers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := versioned()
		a := play(t, client, "a")
		defer a.stop()
		synctest.Wait()
		leases := client.CoordinationV1().Leases("kube-system")
		lease, err := leases.Get(t.Context(), "test", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		lease = lease.DeepCopy()
		lease.Spec.HolderIdentity = ptr.To("b")
		if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if a.leads {
			t.Error("a still leads")
		}
		time.Sleep(40 * time.Second)
		synctest.Wait()
		if !a.leads {
			t.Error("a does not lead again, though b never renewed")
		}
	})
}

func TestALeaderThatCannotRenewStopsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := versioned()
		broken := false
		client.PrependReactor("update", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
			return broken, nil, errors.New("no datastore")
		})
		a := play(t, client, "a")
		defer a.stop()
		synctest.Wait()
		broken = true
		time.Sleep(26 * time.Second)
		synctest.Wait()
		if !a.leads {
			t.Error("a gave up early")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if a.leads {
			t.Error("a still leads after two thirds of its lease")
		}
		broken = false
		time.Sleep(retry)
		synctest.Wait()
		if !a.leads {
			t.Error("a does not lead again")
		}
	})
}

func TestOnARealServer(t *testing.T) {
	server, err := servertest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}()
	client, err := kubernetes.NewForConfig(server.Admin())
	if err != nil {
		t.Fatal(err)
	}
	began := make(chan string)
	run := func(name string) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := New(client.CoordinationV1(), "test", name, slog.New(slog.DiscardHandler)).Run(ctx, func(ctx context.Context) error {
				began <- name
				<-ctx.Done()
				return nil
			}); err != nil {
				t.Error(err)
			}
		}()
		return func() { cancel(); <-done }
	}
	stopA := run("a")
	if got := <-began; got != "a" {
		t.Fatalf("%s leads", got)
	}
	stopB := run("b")
	defer stopB()
	stopA()
	if got := <-began; got != "b" {
		t.Fatalf("%s leads after a stopped", got)
	}
}
