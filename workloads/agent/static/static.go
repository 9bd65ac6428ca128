// Package static reads the pods that run on this machine because a file here says so (static pods in the Kubernetes
// documentation).
//
// In:       a folder of files, each one v1 Pod in YAML or JSON.
// Out:      the pods, complete and bound to this node; called again whenever the folder says something else.
// Promise:  the same file is the same pod after a restart; a file with a mistake harms no other, and one that had a good pod
//
//	before keeps it.
//
// Not here: running them and showing them to the API (workloads/agent/pod).
package static

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/yaml"
)

// Annotations of static pods; clients and drain tools look for them.
const (
	AnnotationSource = "kubernetes.io/config.source" // file
	AnnotationHash   = "kubernetes.io/config.hash"
)

// Config of a source.
type Config struct {
	Dir      string // absolute; may be missing
	NodeName string
	// Complete gives a pod what the API server gives one that says nothing about it, and says what is wrong with it.
	Complete func(*corev1.Pod) error
	Events   record.EventRecorder
	Log      *slog.Logger
}

// Source of static pods.
type Source struct {
	conf  Config
	log   *slog.Logger
	good  map[string]*corev1.Pod // by file: its last good pod
	wrong map[string]string      // by file: what was said about it

	events <-chan struct{} // of the folder; nil when the kernel does not tell
}

// New makes a source; nothing is read before Read or Run, which are not to be called side by side.
func New(conf Config) *Source {
	return &Source{conf: conf, log: conf.Log.With("component", "static pods"), good: map[string]*corev1.Pod{}, wrong: map[string]string{}}
}

// Read is what the folder says now. Mistakes are told of once.
func (s *Source) Read() []*corev1.Pod {
	files, err := s.files()
	if err != nil {
		s.tell(s.conf.Dir, err)
		return s.pods() // a folder that cannot be read for a moment does not end its pods
	}
	delete(s.wrong, s.conf.Dir)
	for file := range s.good {
		if files[file] == nil {
			delete(s.good, file)
		}
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		pod, err := s.read(file, files[file])
		if err == nil {
			err = s.taken(file, pod)
		}
		if err != nil {
			s.tell(file, err)
			continue
		}
		delete(s.wrong, file)
		s.good[file] = pod
	}
	maps.DeleteFunc(s.wrong, func(file, _ string) bool { return file != s.conf.Dir && files[file] == nil })
	return s.pods()
}

func (s *Source) pods() []*corev1.Pod {
	pods := make([]*corev1.Pod, 0, len(s.good))
	for _, file := range slices.Sorted(maps.Keys(s.good)) {
		pods = append(pods, s.good[file])
	}
	return pods
}

// tell once a mistake: in the log, and as an event about the node, because there is no pod to tell it of.
func (s *Source) tell(file string, err error) {
	if s.wrong[file] == err.Error() {
		return
	}
	s.wrong[file] = err.Error()
	running := s.good[file] != nil
	s.log.Error("a static pod's file is wrong; mend or remove it", "file", file, "error", err, "its last good pod runs on", running)
	about := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: s.conf.NodeName, UID: types.UID(s.conf.NodeName)}
	s.conf.Events.Eventf(about, corev1.EventTypeWarning, "InvalidStaticPod", "%s: %v", file, err)
}

const maxFile = 10 << 20

// files of the folder with their contents. Those that begin with a dot are none: editors keep such.
func (s *Source) files() (map[string][]byte, error) {
	entries, err := os.ReadDir(s.conf.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, e := range entries {
		path := filepath.Join(s.conf.Dir, e.Name())
		info, err := os.Stat(path) // of what a link points at
		if strings.HasPrefix(e.Name(), ".") || err != nil || !info.Mode().IsRegular() {
			continue
		}
		data, err := readAll(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files[path] = data
	}
	return files, nil
}

func readAll(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	if data == nil {
		data = []byte{}
	}
	return data, err
}

// read makes the pod of one file.
func (s *Source) read(file string, data []byte) (*corev1.Pod, error) {
	documents := 0
	for part := range bytes.SplitSeq(append([]byte("\n"), data...), []byte("\n---")) {
		if len(bytes.TrimSpace(part)) > 0 {
			documents++
		}
	}
	if documents != 1 {
		return nil, fmt.Errorf("it holds %d objects: give each pod a file of its own", documents)
	}
	pod := &corev1.Pod{}
	if err := yaml.UnmarshalStrict(data, pod); err != nil {
		return nil, err
	}
	if pod.Kind != "Pod" || pod.APIVersion != "v1" {
		return nil, fmt.Errorf("it holds %s %s: only a v1 Pod can be run from a file", pod.APIVersion, pod.Kind)
	}
	s.bind(pod, identity(s.conf.NodeName, file, data))
	if reasons := validation.IsDNS1123Subdomain(pod.Name); len(reasons) > 0 {
		return nil, fmt.Errorf("metadata.name, which gets the node's name at its end, would be %q: %s", pod.Name, reasons[0])
	}
	return pod, s.conf.Complete(pod)
}

// identity stands for one content of one file on one node: change anything, and it is another pod.
func identity(node, file string, data []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00", node, file)
	h.Write(data)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// bind makes it this node's pod.
func (s *Source) bind(pod *corev1.Pod, id string) {
	pod.ObjectMeta = metav1.ObjectMeta{
		Name: pod.Name + "-" + s.conf.NodeName, Namespace: pod.Namespace, UID: types.UID(id),
		Labels: pod.Labels, Annotations: maps.Clone(pod.Annotations),
	}
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[AnnotationSource], pod.Annotations[AnnotationHash] = "file", id
	delete(pod.Annotations, corev1.MirrorPodAnnotationKey)
	pod.Spec.NodeName = s.conf.NodeName
	pod.Spec.Priority = map[string]*int32{"system-node-critical": new(int32(2000001000)), "system-cluster-critical": new(int32(2000000000))}[pod.Spec.PriorityClassName]
	// Whatever befalls the node, its own pods stay.
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
}

// taken says whether another file has a pod of this name.
func (s *Source) taken(file string, pod *corev1.Pod) error {
	for other, theirs := range s.good {
		if other != file && theirs.Namespace == pod.Namespace && theirs.Name == pod.Name {
			return fmt.Errorf("%s has a pod %s/%s already: name one of them otherwise", other, pod.Namespace, strings.TrimSuffix(pod.Name, "-"+s.conf.NodeName))
		}
	}
	return nil
}

// Run calls changed with what is wanted whenever that is something else, until ctx ends.
func (s *Source) Run(ctx context.Context, changed func([]*corev1.Pod)) {
	last := uids(s.pods())
	for s.wait(ctx) {
		pods := s.Read()
		if now := uids(pods); !slices.Equal(last, now) {
			last = now
			changed(pods)
		}
	}
}

func uids(pods []*corev1.Pod) []types.UID {
	out := make([]types.UID, 0, len(pods))
	for _, pod := range pods {
		out = append(out, pod.UID)
	}
	return out
}
