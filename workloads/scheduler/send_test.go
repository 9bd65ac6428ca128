package scheduler

import (
	"context"
	"errors"
	"testing"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/scheduler/plugins"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// toll reserves for every pod and lets it through when it is told to. It follows storage classes, so that a new one makes
// it look again.
type toll struct {
	preBind  func() error
	permit   func() (bool, error)
	patience time.Duration

	asked  chan struct{} // Permit was asked
	undone chan struct{}
	given  chan struct{} // back in the API
}

func newToll() *toll {
	return &toll{
		preBind: func() error { return nil }, permit: func() (bool, error) { return true, nil },
		asked: make(chan struct{}, 100), undone: make(chan struct{}, 100), given: make(chan struct{}, 100),
	}
}

func (*toll) Name() string { return "Toll" }

func (*toll) Needs(*snapshot.Pod, *snapshot.Snapshot) []plugins.Source {
	nothing := func(*snapshot.Snapshot, *storagev1.StorageClass) snapshot.Change { return snapshot.Change{} }
	return []plugins.Source{plugins.SourceOf(&storagev1.StorageClass{}, nothing, nothing)}
}

func (r *toll) Reserve(*snapshot.Pod, *snapshot.Snapshot, *snapshot.Node) (*plugins.Reservation, error) {
	return &plugins.Reservation{
		PreBind: func(context.Context, client.Client) error { return r.preBind() },
		Permit: func(*snapshot.Snapshot) (bool, error) {
			r.asked <- struct{}{}
			return r.permit()
		},
		Patience: r.patience,
		Undo: func(*snapshot.Snapshot) snapshot.Change {
			r.undone <- struct{}{}
			return snapshot.Change{}
		},
		GiveBack: func(*snapshot.Snapshot) func(context.Context, client.Client) error {
			return func(context.Context, client.Client) error {
				r.given <- struct{}{}
				return nil
			}
		},
	}, nil
}

// behind starts a scheduler with the toll on node a, which has room for one pod.
func behind(t *testing.T, r *toll) *cluster {
	config := ordinaryConfig()
	by := config.profiles[0]
	by.reservers = append(by.reservers, r)
	by.followers = append(by.followers, r)
	return startWith(t, config, node("a", "1"))
}

func (c *cluster) create(o client.Object) {
	c.t.Helper()
	if err := c.client.Create(c.t.Context(), o); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) wait(until chan struct{}, what string) {
	c.t.Helper()
	select {
	case <-until:
	case <-time.After(time.Minute):
		c.t.Fatal(what)
	}
}

// lookAgain makes the toll look at those that wait.
func (c *cluster) lookAgain() {
	c.t.Helper()
	c.watching.Wait()
	c.create(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "news"}})
}

func TestAPodThatWaitsForPermissionHoldsItsRoom(t *testing.T) {
	r := newToll()
	may := make(chan bool, 2)
	may <- false
	may <- true
	r.permit = func() (bool, error) { return <-may, nil }
	c := behind(t, r)
	c.create(pod("first", "1"))
	c.wait(r.asked, "nobody asked whether the first pod may go")
	c.create(pod("second", "1"))
	c.await("second", refusedFor("Insufficient cpu"))
	if got := c.await("first", waitsFor("a")); got.Spec.NodeName != "" {
		t.Fatalf("the first pod went to %s without permission", got.Spec.NodeName)
	}
	c.lookAgain()
	c.await("first", on("a"))
}

func TestAPodThatWasSentBackIsExpectedWhereItWasGoing(t *testing.T) {
	r := newToll()
	first := true
	r.permit = func() (bool, error) {
		if first {
			first = false
			return false, errors.New("not yet")
		}
		return true, nil
	}
	c := behind(t, r)
	c.create(pod("first", "1"))
	c.await("first", refusedFor("not yet"))
	c.create(pod("second", "1"))
	c.await("second", refusedFor("Insufficient cpu"))
	c.await("first", on("a"))
}

func TestWhatWasReservedIsGivenBack(t *testing.T) {
	failed := errors.New("no change")
	tests := map[string]struct {
		toll func(*toll)
		then func(*cluster, *toll) // what makes it come to nothing
		api  bool                  // in the API as well
		why  string                // the pod is told; "" when there is none any more
	}{
		"when it cannot be written": {toll: func(r *toll) { r.preBind = func() error { return failed } }, why: "no change"},
		"when it is refused":        {toll: func(r *toll) { r.permit = func() (bool, error) { return false, failed } }, api: true, why: "no change"},
		"when it takes too long": {
			toll: func(r *toll) {
				r.permit, r.patience = func() (bool, error) { return false, nil }, time.Millisecond
			},
			api: true, why: errTooLate.Error(),
		},
		"when it is refused later": {
			toll: func(r *toll) {
				answers := make(chan error, 1)
				answers <- nil
				r.permit = func() (bool, error) {
					select {
					case <-answers:
						return false, nil
					default:
						return false, failed
					}
				}
			},
			then: func(c *cluster, r *toll) {
				c.wait(r.asked, "nobody asked whether the pod may go")
				c.lookAgain()
			},
			api: true, why: "no change",
		},
		"when the pod goes": {
			toll: func(r *toll) { r.permit = func() (bool, error) { return false, nil } },
			then: func(c *cluster, r *toll) {
				c.wait(r.asked, "nobody asked whether the pod may go")
				if err := c.client.Delete(c.t.Context(), pod("first", "1")); err != nil {
					c.t.Fatal(err)
				}
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r := newToll()
			tc.toll(r)
			c := behind(t, r)
			c.create(pod("first", "1"))
			if tc.then != nil {
				tc.then(c, r)
			}
			c.wait(r.undone, "nothing was given back")
			if tc.api {
				c.wait(r.given, "nothing was given back in the API")
			}
			if tc.why != "" {
				c.await("first", refusedFor(tc.why))
			}
			if tc.why == "" {
				c.create(pod("second", "1"))
				c.wait(r.asked, "the room was not given back")
			}
		})
	}
}
