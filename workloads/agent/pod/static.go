package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Static pods are told by files on this machine (workloads/agent/static). The API has a mirror of each, so that people and
// the scheduler see them: a pod of the same name that nobody can change, and whose deletion only has it made anew.

// key names a static pod and its mirror.
func key(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

func isMirror(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror
}

// mirrors: is this the picture of the static pod, and to stay?
func mirrors(pod, mirror *corev1.Pod) bool {
	return mirror != nil && mirror.DeletionTimestamp == nil && mirror.Annotations[corev1.MirrorPodAnnotationKey] == string(pod.UID)
}

// followStatic starts, ends and replaces static pods as their files change.
func (m *Manager) followStatic(pods []*corev1.Pod) {
	m.setStatic(pods)
	m.settleStatic()
}

// setStatic takes in which static pods are wanted.
func (m *Manager) setStatic(pods []*corev1.Pod) {
	wanted := make(map[types.UID]*corev1.Pod, len(pods))
	for _, pod := range pods {
		wanted[pod.UID] = pod
	}
	m.mu.Lock()
	m.static = wanted
	m.mu.Unlock()
}

// settleStatic starts the static pods that are wanted, ends those that are not, and removes mirrors of none. A file that
// changed is another pod of the same name: it starts when the old one has gone.
func (m *Manager) settleStatic() {
	m.mu.Lock()
	if m.static == nil {
		m.mu.Unlock()
		return // the files were not read yet
	}
	named := map[types.NamespacedName]bool{}
	var over, fresh []*actor
	for uid, a := range m.actors {
		a.mu.Lock()
		if a.mirrored != nil || a.gone { // what a process before this one left of a static pod has its name as well
			named[key(a.pod)] = true
		}
		a.mu.Unlock()
		if a.mirrored != nil && m.static[uid] == nil {
			over = append(over, a)
		}
	}
	for uid, pod := range m.static {
		if !named[key(pod)] {
			named[key(pod)] = true
			a := newActor(m, uid)
			a.pod, a.mirrored = pod, &mirroring{}
			if mirror := m.mirrors[key(pod)]; mirror != nil {
				a.setMirror(mirror)
				if mirrors(pod, mirror) && (!ended(mirror) || mirror.Status.Reason == "") { // one the node ended begins anew
					a.pod = withStatus(a.pod, &mirror.Status) // as a process before this one told it
				}
			}
			m.actors[uid] = a
			fresh = append(fresh, a)
		}
	}
	for _, pod := range m.static {
		named[key(pod)] = true
	}
	var orphans []*corev1.Pod
	for name, mirror := range m.mirrors {
		if !named[name] {
			orphans = append(orphans, mirror)
		}
	}
	m.mu.Unlock()
	for _, a := range fresh {
		m.settlePlaces(a)
		a.poke()
	}
	for _, a := range over {
		a.mu.Lock()
		a.gone = true
		a.mu.Unlock()
		a.poke()
	}
	for _, mirror := range orphans {
		m.spawn(func() {
			if err := m.removeMirror(m.ctx, mirror); err != nil && m.ctx.Err() == nil {
				m.log.Warn("remove the mirror of a static pod that is no more; will try again", "pod", key(mirror), "error", err)
			}
		})
	}
}

func withStatus(pod *corev1.Pod, status *corev1.PodStatus) *corev1.Pod {
	with := *pod
	with.Status = *status
	return &with
}

// mirroring is what an actor of a static pod has beside: the picture of its pod in the API.
type mirroring struct {
	mirror *corev1.Pod // nil when there is none; never modified
}

// setMirror notes the picture there is now; a.mu is held, or nobody else has a yet.
func (a *actor) setMirror(mirror *corev1.Pod) {
	a.mirrored.mirror = mirror
	if mirror != nil && a.pod.Generation != mirror.Generation { // which the status says it was computed for
		pod := *a.pod
		pod.Generation = mirror.Generation
		a.pod = &pod
	}
}

// sawMirror takes in a mirror as the API shows it.
func (m *Manager) sawMirror(mirror *corev1.Pod, gone bool) {
	if mirror.Spec.NodeName != m.conf.Node.Name {
		return
	}
	m.mu.Lock()
	have := m.mirrors[key(mirror)]
	if gone && (have == nil || have.UID != mirror.UID) {
		m.mu.Unlock()
		return // another has its place already
	}
	m.mirrors[key(mirror)] = mirror
	if gone {
		delete(m.mirrors, key(mirror))
	}
	var mine *actor
	for uid, a := range m.actors {
		if a.mirrored != nil && m.static[uid] != nil && key(m.static[uid]) == key(mirror) {
			mine = a
		}
	}
	m.mu.Unlock()
	if mine == nil {
		m.settleStatic()
		return
	}
	mine.mu.Lock()
	if now := mine.mirrored.mirror; !gone {
		mine.setMirror(mirror)
	} else if now != nil && now.UID == mirror.UID {
		mine.setMirror(nil)
	}
	mine.mu.Unlock()
	mine.poke()
}

// shown is the API's object of the pod; a.mu is held.
func (a *actor) shown() *corev1.Pod {
	if a.mirrored != nil && a.mirrored.mirror != nil {
		return a.mirrored.mirror
	}
	return a.pod
}

// unmirrored: is this a static pod whose picture in the API has to be made? a.mu is held.
func (a *actor) unmirrored() bool { return a.mirrored != nil && !mirrors(a.pod, a.mirrored.mirror) }

// mirror has the API show a static pod, and returns what it shows it as.
func (m *Manager) mirror(ctx context.Context, a *actor) (*corev1.Pod, error) {
	a.mu.Lock()
	pod, old := a.pod, a.mirrored.mirror
	a.mu.Unlock()
	if mirrors(pod, old) {
		return old, nil
	}
	if old != nil {
		if err := m.removeMirror(ctx, old); err != nil {
			return nil, err
		}
	}
	node := &corev1.Node{}
	if err := m.conf.Cache.Get(ctx, client.ObjectKey{Name: m.conf.Node.Name}, node); err != nil {
		return nil, fmt.Errorf("look up the node that owns mirror pods: %w", err)
	}
	made, err := m.conf.Client.Pods(pod.Namespace).Create(ctx, mirrorOf(pod, node), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // this process, or one before it, made it already; or the name is taken
		made, err = m.conf.Client.Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err == nil && !isMirror(made) {
			err = apierrors.NewConflict(corev1.Resource("pods"), pod.Name, errors.New("a pod of this name is in the API already: delete it, or name the static pod otherwise"))
		}
	}
	if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown { // else the API did not answer, and will
		m.event(pod, corev1.EventTypeWarning, "FailedMirrorPod", "The static pod runs, but the API cannot show it: %v", err)
	}
	if err != nil {
		return nil, fmt.Errorf("make mirror pod: %w", err)
	}
	a.mu.Lock()
	a.setMirror(made)
	a.mu.Unlock()
	if !mirrors(pod, made) {
		return nil, fmt.Errorf("mirror pod %s shows an older pod and will be replaced", key(pod))
	}
	return made, nil
}

// mirrorOf is the pod as the API gets it: without what it gives pods itself.
func mirrorOf(pod *corev1.Pod, node *corev1.Node) *corev1.Pod {
	mirror := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, Annotations: maps.Clone(pod.Annotations),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: new(true)}},
		},
		Spec: *pod.Spec.DeepCopy(),
	}
	mirror.Annotations[corev1.MirrorPodAnnotationKey] = string(pod.UID)
	mirror.Spec.Priority = nil
	return mirror
}

func (m *Manager) removeMirror(ctx context.Context, mirror *corev1.Pod) error {
	err := m.conf.Client.Pods(mirror.Namespace).Delete(ctx, mirror.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &mirror.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove mirror pod %s: %w", key(mirror), err)
	}
	return nil
}
