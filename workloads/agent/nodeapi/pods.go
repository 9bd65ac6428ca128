package nodeapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/nodeapi/stats"
	"knarr.dev/knarr/workloads/agent/pod"
	"knarr.dev/knarr/workloads/agent/translate"
)

func (s *Server) servePods(w http.ResponseWriter, r *http.Request) {
	s.writePods(w, r, s.config.Agent.Pods())
}

// serveRunningPods lists what the runtime runs, whatever the API thinks of it.
func (s *Server) serveRunningPods(w http.ResponseWriter, r *http.Request) {
	ready := &runtimeapi.PodSandboxFilter{State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}}
	sandboxes, err := s.config.Runtime.ListPodSandbox(r.Context(), &runtimeapi.ListPodSandboxRequest{Filter: ready})
	if err != nil {
		s.fail(w, fmt.Errorf("list sandboxes: %w", err))
		return
	}
	byUID := map[types.UID]*corev1.Pod{}
	var pods []*corev1.Pod
	for _, sandbox := range sandboxes.GetItems() {
		about := sandbox.GetMetadata()
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: about.GetName(), Namespace: about.GetNamespace(), UID: types.UID(about.GetUid())}}
		byUID[p.UID] = p
		pods = append(pods, p)
	}
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	containers, err := s.config.Runtime.ListContainers(r.Context(), &runtimeapi.ListContainersRequest{Filter: running})
	if err != nil {
		s.fail(w, fmt.Errorf("list containers: %w", err))
		return
	}
	for _, c := range containers.GetContainers() {
		if p := byUID[types.UID(c.GetLabels()[translate.LabelPodUID])]; p != nil {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c.GetMetadata().GetName(), Image: c.GetImage().GetImage()})
		}
	}
	s.writePods(w, r, pods)
}

func (s *Server) writePods(w http.ResponseWriter, r *http.Request, pods []*corev1.Pod) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: make([]corev1.Pod, 0, len(pods))}
	for _, p := range pods {
		list.Items = append(list.Items, *p)
	}
	s.writeJSON(w, r, list)
}

func (s *Server) serveSummary(w http.ResponseWriter, r *http.Request) {
	narrow, _ := strconv.ParseBool(r.URL.Query().Get("only_cpu_and_memory")) // anything else means everything
	summary, err := s.stats.Summary(r.Context(), narrow)
	if err != nil {
		s.fail(w, err)
		return
	}
	s.writeJSON(w, r, summary)
}

func (s *Server) serveResources(w http.ResponseWriter, r *http.Request) {
	summary, err := s.stats.Summary(r.Context(), true)
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if err := stats.WriteResources(w, summary); err != nil {
		s.config.Log.Debug("metrics not sent", "err", err)
	}
}

func (s *Server) serveContainers(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if err := s.stats.WriteContainers(r.Context(), w); err != nil {
		s.fail(w, err)
	}
}

func (s *Server) serveSettings(w http.ResponseWriter, r *http.Request) {
	s.writeJSON(w, r, map[string]any{"kubeletconfig": s.config.Settings})
}

func (s *Server) serveRun(w http.ResponseWriter, r *http.Request) {
	place, ok := s.container(w, r, false, http.StatusBadRequest)
	if !ok {
		return
	}
	command := r.URL.Query()["cmd"]
	response, err := s.config.Runtime.ExecSync(r.Context(), &runtimeapi.ExecSyncRequest{ContainerId: place.ContainerID, Cmd: command})
	if err != nil {
		s.fail(w, fmt.Errorf("run %q: %w", command, err))
		return
	}
	output := append(response.GetStdout(), response.GetStderr()...)
	if response.GetExitCode() != 0 {
		http.Error(w, fmt.Sprintf("command %q exited with %d: %s", command, response.GetExitCode(), output), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(output) // the client left: nobody to tell
}

// container finds the container a request is about, or answers why there is none. That its pod has none of the name is
// missing, in the codes of HTTP: clients know different ones.
func (s *Server) container(w http.ResponseWriter, r *http.Request, previous bool, missing int) (pod.Place, bool) {
	name := r.PathValue("container")
	place, err := s.config.Agent.Find(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")), name, previous)
	switch {
	case err == nil:
		return place, true
	case place.Pod == nil && errors.Is(err, pod.ErrNotFound):
		http.Error(w, fmt.Sprintf("pod %q not found", r.PathValue("pod")), http.StatusNotFound)
	case errors.Is(err, pod.ErrNotFound):
		http.Error(w, whyNoContainer(place.Pod, name, previous), missing)
	default:
		s.fail(w, err)
	}
	return pod.Place{}, false
}

// whyNoContainer explains why a pod's container has not run (before).
func whyNoContainer(p *corev1.Pod, name string, previous bool) string {
	if translate.Find(p, name) == nil {
		return fmt.Sprintf("container %s is not valid for pod %s", name, p.Name)
	}
	if previous {
		return fmt.Sprintf("previous terminated container %q in pod %q not found", name, p.Name)
	}
	reason := "ContainerCreating"
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range list {
			if waiting := list[i].State.Waiting; list[i].Name == name && waiting != nil && waiting.Reason != "" {
				reason = waiting.Reason
			}
		}
	}
	return fmt.Sprintf("container %q in pod %q is waiting to start: %s", name, p.Name, reason)
}

func (s *Server) fail(w http.ResponseWriter, err error) {
	s.config.Log.Debug("request failed", "err", err)
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

func (s *Server) writeJSON(w http.ResponseWriter, r *http.Request, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil && r.Context().Err() == nil {
		s.config.Log.Debug("answer not sent", "path", r.URL.Path, "err", err)
	}
}
