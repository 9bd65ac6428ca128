package workloads_test

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/podcontrol"
)

// moment is one change of the cluster. Versions put the changes of all kinds in the order of the datastore.
type moment struct {
	version uint64
	gone    bool
	object  client.Object // nil for a calm: everything was as told
}

// recorder writes down what becomes of a namespace's workloads, and of nodes.
type recorder struct {
	t       *testing.T
	watches []watch.Interface
	done    sync.WaitGroup

	mu      sync.Mutex
	moments []moment
	last    map[types.UID]moment
}

func recorded() []client.ObjectList {
	return []client.ObjectList{
		&corev1.PodList{}, &corev1.ReplicationControllerList{}, &appsv1.ReplicaSetList{}, &appsv1.DeploymentList{}, &appsv1.StatefulSetList{},
		&appsv1.DaemonSetList{}, &batchv1.JobList{}, &batchv1.CronJobList{}, &corev1.NodeList{},
	}
}

// record begins.
func record(t *testing.T, ns string) *recorder {
	t.Helper()
	r := &recorder{t: t, last: map[types.UID]moment{}}
	for _, list := range recorded() {
		w, err := api.Watch(t.Context(), list, within(list, ns)...)
		if err != nil {
			t.Fatal(err)
		}
		r.watches = append(r.watches, w)
		r.done.Go(func() {
			for e := range w.ResultChan() {
				if o, ok := e.Object.(client.Object); ok {
					r.note(moment{version: versionOf(o), gone: e.Type == watch.Deleted, object: o})
				}
			}
		})
	}
	t.Cleanup(r.stop)
	return r
}

func within(list client.ObjectList, ns string) []client.ListOption {
	if _, nodes := list.(*corev1.NodeList); nodes {
		return nil
	}
	return []client.ListOption{client.InNamespace(ns)}
}

func versionOf(o client.Object) uint64 {
	version, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		panic(err) // a real object always has one
	}
	return version
}

func (r *recorder) note(m moment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moments = append(r.moments, m)
	r.last[m.object.GetUID()] = m
}

// calm notes that nothing is left to do, once all that led there is written down.
func (r *recorder) calm(ns string) {
	r.t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if version, whole := r.whole(ns); whole {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.moments = append(r.moments, moment{version: version})
			return
		}
		select {
		case <-deadline:
			r.t.Fatal("the history is not complete in time")
		case <-tick.C:
		}
	}
}

// whole says whether what there is now is what was written down last, and which version that is.
func (r *recorder) whole(ns string) (version uint64, whole bool) {
	there := map[types.UID]uint64{}
	for _, list := range recorded() {
		if err := api.List(r.t.Context(), list, within(list, ns)...); err != nil {
			r.t.Fatal(err)
		}
		if err := meta.EachListItem(list, func(o runtime.Object) error {
			there[o.(client.Object).GetUID()] = versionOf(o.(client.Object))
			return nil
		}); err != nil {
			r.t.Fatal(err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for uid, at := range there {
		if r.last[uid].version != at {
			return 0, false
		}
	}
	for uid, m := range r.last {
		if _, found := there[uid]; !found && !m.gone {
			return 0, false
		}
		version = max(version, m.version)
	}
	return version, true
}

func (r *recorder) stop() {
	for _, w := range r.watches {
		w.Stop()
	}
	r.done.Wait()
}

// history is all that was written down, in order.
func (r *recorder) history() []moment {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Clone(r.moments)
	slices.SortStableFunc(all, func(a, b moment) int { return cmp.Compare(a.version, b.version) })
	return all
}

// excerpt is what happened to the accused and its pods before.
func excerpt(history []moment, a accusation) []string {
	const lines = 40
	accused, _, _ := strings.Cut(a.what, ":")
	var told []string
	for _, m := range history {
		if m.version > a.version {
			break
		}
		switch o := m.object.(type) {
		case nil:
			told = append(told, fmt.Sprintf("%d calm", m.version))
		case *corev1.Pod:
			if o.Labels["app"] == accused {
				told = append(told, fmt.Sprintf("%d pod %s (%s) on %q: %s, ready %v, told to go %v, gone %v, %v, finalizers %v",
					m.version, o.Name, o.UID, nodeOf(o), o.Status.Phase, podcontrol.Ready(o), o.DeletionTimestamp != nil, m.gone, o.Annotations, o.Finalizers))
			}
		default:
			if o.GetName() == accused {
				told = append(told, fmt.Sprintf("%d %T %s of generation %d, size %d, gone %v", m.version, o, o.GetName(), o.GetGeneration(), sizeOf(o), m.gone))
			}
		}
	}
	return told[max(0, len(told)-lines):]
}
