package pod

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// writer brings computed statuses to the API: the newest of each pod, only what differs, until it is there. A pod that
// was deleted or made anew under the same name is never written to: the patch names the UID it is for.
type writer struct{ m *Manager }

// wanted is the status an actor wants the API to have.
type wanted struct {
	status  corev1.PodStatus
	passing bool // more is to follow soon
	last    bool // nothing will change any more
}

const (
	writeTimeout  = 10 * time.Second
	firstRewrite  = 200 * time.Millisecond
	slowestWrites = 10 * time.Second
	// calm is how long a pod's progress towards running, or towards its end, stays untold: most pods get there sooner,
	// and are then told of in one write instead of three.
	calm = 500 * time.Millisecond
)

func (w *writer) set(a *actor, pod *corev1.Pod, st corev1.PodStatus, last bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.newestStatus()
	if a.want == nil && !a.writing && !a.unmirrored() && equality.Semantic.DeepEqual(*have, st) {
		if last && !a.reported {
			a.reported = true
			w.m.spawn(a.poke)
		}
		return
	}
	starting := st.Phase == corev1.PodPending && !troubled(&st) && !restarting(&st)
	a.want = &wanted{status: st, last: last, passing: starting || pod.DeletionTimestamp != nil && !last}
	select {
	case a.news <- struct{}{}:
	default:
	}
	if !a.writing {
		a.writing = w.m.spawn(func() { w.write(a, pod.Namespace, pod.Name) })
	}
}

// newestStatus is the API's, from the watch or from the answer to our last write, whichever is newer; a.mu is held.
func (a *actor) newestStatus() *corev1.PodStatus {
	shown := a.shown()
	if a.written != nil && a.written.UID == shown.UID && newerVersion(a.written.ResourceVersion, shown.ResourceVersion) {
		return &a.written.Status
	}
	return &shown.Status
}

func newerVersion(a, b string) bool {
	x, err1 := strconv.ParseUint(a, 10, 64)
	y, err2 := strconv.ParseUint(b, 10, 64)
	return err1 == nil && (err2 != nil || x > y)
}

// write goes on until the API has what the actor wants.
func (w *writer) write(a *actor, namespace, name string) {
	delay := firstRewrite
	w.settle(a)
	for {
		a.mu.Lock()
		want := a.want
		if want == nil || a.gone || w.m.ctx.Err() != nil {
			a.writing = false
			a.mu.Unlock()
			return
		}
		a.want = nil
		a.mu.Unlock()

		written, err := w.once(a, namespace, name, want.status)
		switch {
		case err == nil:
			delay = firstRewrite
			a.mu.Lock()
			if written != nil {
				a.written = written
			}
			a.reported = a.reported || want.last
			a.mu.Unlock()
			if want.last {
				a.poke()
			}
			continue
		case a.mirrored != nil && apierrors.IsNotFound(err): // it is made again, before the status is written again
			a.mu.Lock()
			a.setMirror(nil)
			a.mu.Unlock()
		case a.mirrored != nil && (apierrors.IsConflict(err) || apierrors.IsInvalid(err)): // mended from outside
		case apierrors.IsNotFound(err), (apierrors.IsConflict(err) || apierrors.IsInvalid(err)) && w.replaced(a, namespace, name):
			// The pod is gone, or another one has its name: this one is to be wound down.
			a.mu.Lock()
			a.gone = true
			a.mu.Unlock()
			a.poke()
			continue
		case apierrors.IsInvalid(err):
			// Trying again would not help; the next change makes a new attempt.
			w.m.log.Error("the API refuses a pod's status", "pod", namespace+"/"+name, "error", err)
			continue
		}
		w.m.log.Debug("write pod status; will try again", "pod", namespace+"/"+name, "in", delay, "error", err)
		a.mu.Lock()
		if a.want == nil {
			a.want = want
		}
		a.mu.Unlock()
		select {
		case <-w.m.ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay, slowestWrites)
	}
}

// once tries to bring a status to the API's object of the pod.
func (w *writer) once(a *actor, namespace, name string, st corev1.PodStatus) (*corev1.Pod, error) {
	uid := a.uid
	if a.mirrored != nil {
		ctx, cancel := context.WithTimeout(w.m.ctx, writeTimeout)
		defer cancel()
		mirror, err := w.m.mirror(ctx, a)
		if err != nil {
			return nil, err
		}
		uid = mirror.UID
	}
	a.mu.Lock()
	base := a.newestStatus().DeepCopy()
	a.mu.Unlock()
	return w.patch(w.m.ctx, namespace, name, uid, base, st)
}

// replaced tells whether another pod has the name of a's now, or none. To the API server a patch of another pod's UID is
// one that changes what never changes. A conflict can also mean that others wrote often enough meanwhile to make the API
// give up, and then the pod is as wanted as before.
func (w *writer) replaced(a *actor, namespace, name string) bool {
	ctx, cancel := context.WithTimeout(w.m.ctx, writeTimeout)
	defer cancel()
	pod, err := w.m.conf.Client.Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	return apierrors.IsNotFound(err) || err == nil && pod.UID != a.uid
}

// settle waits while a pod is on its way.
func (w *writer) settle(a *actor) {
	end := time.NewTimer(calm)
	defer end.Stop()
	for {
		a.mu.Lock()
		passing := a.want != nil && a.want.passing
		a.mu.Unlock()
		if !passing {
			return
		}
		select {
		case <-a.news:
		case <-end.C:
			return
		case <-w.m.ctx.Done():
			return
		}
	}
}

// troubled: a container waits for another reason than that its turn has not come.
func troubled(s *corev1.PodStatus) bool {
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			if w := list[i].State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				return true
			}
		}
	}
	return false
}

// restarting: all containers are being ended to begin anew, which lasts but a moment.
func restarting(s *corev1.PodStatus) bool {
	return slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.AllContainersRestarting && c.Status == corev1.ConditionTrue
	})
}

func (w *writer) patch(ctx context.Context, namespace, name string, uid types.UID, base *corev1.PodStatus, st corev1.PodStatus) (*corev1.Pod, error) {
	data, err := statusPatch(uid, base, st)
	if err != nil || data == nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return w.m.conf.Client.Pods(namespace).Patch(ctx, name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
}

// ourConditions are those only the node writes.
var ourConditions = []corev1.PodConditionType{
	corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady, corev1.PodResizePending, corev1.PodResizeInProgress,
}

// statusPatch is the difference between two statuses, nil when there is none. Conditions of other writers are taken
// from base, which may be newer than what the status was computed from.
func statusPatch(uid types.UID, base *corev1.PodStatus, st corev1.PodStatus) ([]byte, error) {
	theirs := func(c corev1.PodCondition) bool {
		disrupted := c.Type == corev1.DisruptionTarget && c.Reason == corev1.PodReasonTerminationByKubelet // others set it too
		return !slices.Contains(ourConditions, c.Type) && !disrupted
	}
	conditions := slices.DeleteFunc(slices.Clone(st.Conditions), theirs)
	for _, c := range base.Conditions {
		if theirs(c) && !slices.ContainsFunc(conditions, func(ours corev1.PodCondition) bool { return ours.Type == c.Type }) {
			conditions = append(conditions, c)
		}
	}
	st.Conditions = conditions
	if equality.Semantic.DeepEqual(*base, st) {
		return nil, nil
	}
	type part struct {
		Metadata map[string]string `json:"metadata,omitempty"`
		Status   *corev1.PodStatus `json:"status"`
	}
	before, err := json.Marshal(part{Status: base})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(part{Metadata: map[string]string{"uid": string(uid)}, Status: &st})
	if err != nil {
		return nil, err
	}
	data, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("compute status patch: %w", err)
	}
	return data, nil
}
