package pod

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"
)

// What the child is told by its environment.
const (
	childDir     = "KNARR_TEST_CHILD_DIR"
	childCgroups = "KNARR_TEST_CHILD_CGROUPS"
	childArchive = "KNARR_TEST_CHILD_ARCHIVE"
)

// TestChild is the machine of TestKilledAgentAdoptsItsPods: a process of its own, so that it can be killed.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("started by TestKilledAgentAdoptsItsPods")
	}
	m := machineIn(t, dir, os.Getenv(childCgroups))
	m.start(helpers(t))
	m.importApp()
	m.create(named("wanted", app("sleep")))
	m.create(named("unwanted", app("sleep")))
	for _, name := range []string{"wanted", "unwanted"} {
		pod := m.await(name, "ready", isReady)
		data, err := yaml.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("CHILD READY")
	select {} // until it is killed
}

func TestKilledAgentAdoptsItsPods(t *testing.T) {
	helpers(t)
	dir, err := os.MkdirTemp("", "kn")
	if err != nil {
		t.Fatal(err)
	}
	m := machineIn(t, dir, fmt.Sprintf("/knarr-test-%d-killed", os.Getpid()))
	t.Cleanup(m.remove)
	killChild(t, m)

	wanted, unwanted := readPod(t, dir, "wanted"), readPod(t, dir, "unwanted")
	if _, err := m.api.CoreV1().Pods("default").Create(t.Context(), wanted, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	m.start(helpers(t))

	if got := m.pid(wanted); got != readPid(t, dir) {
		t.Errorf("process of the wanted pod is %d, was %d", got, readPid(t, dir))
	}
	m.traceless(unwanted) // nobody asked for it any more
	pod := m.await("wanted", "ready", isReady)
	if got, was := pod.Status.ContainerStatuses[0], wanted.Status.ContainerStatuses[0]; got.RestartCount != 0 || got.ContainerID != was.ContainerID {
		t.Errorf("container is %s after %d restarts, was %s", got.ContainerID, got.RestartCount, was.ContainerID)
	}
	m.deletePod("wanted", 1)
	m.await("wanted", "gone", isGone)
	m.traceless(wanted)
}

// What a container ended with is known even if the process that was told is killed before CRI writes it down.
func TestAnEndIsKnownThatWasNotWrittenDown(t *testing.T) {
	m := newMachine(t)
	pod := named("p", slices.Concat(app("exit", "3"), app("sleep")))
	pod.Spec.Containers[1].Name = "other" // keeps the pod going
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	m.create(pod)
	ended := func(p *corev1.Pod) *corev1.ContainerStateTerminated {
		if p == nil || len(p.Status.ContainerStatuses) == 0 {
			return nil
		}
		return p.Status.ContainerStatuses[0].State.Terminated
	}
	was := m.await("p", "to have a container that ended", func(p *corev1.Pod) bool { return ended(p) != nil })
	m.stop()
	id := strings.TrimPrefix(ended(was).ContainerID, "containerd://")
	path := filepath.Join(m.paths.Containerd(), "io.containerd.grpc.v1.cri", "containers", id, "status")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"FinishedAt", "ExitCode"} { // as it was before the end
		text = regexp.MustCompile(`"`+field+`":\d+`).ReplaceAll(text, []byte(`"`+field+`":0`))
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	m.start(helpers(t))
	status, err := m.runtime.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	if s := status.Status; s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 3 {
		t.Errorf("after the start the container is %v with code %d, want exited with 3", s.State, s.ExitCode)
	}
	m.deletePod("p", 1)
	m.await("p", "gone", isGone)
}

// A node that comes up with nothing running and no API starts the pods it remembers, and those of its own files.
func TestRebootWithoutAPI(t *testing.T) {
	m := newMachine(t)
	m.create(named("remembered", app("sleep")))
	m.await("remembered", "ready", isReady)
	m.stop()
	m.killShims() // the power cut
	if err := m.wipe(m.paths.Run); err != nil {
		t.Fatal(err)
	}
	m.deaf = true
	m.change = func(c *Config) { c.Static = &files{now: []*corev1.Pod{fromFile("own", "sleep")}} }
	m.start(helpers(t))
	for m.running("uid-remembered") == "" || m.running("own") == "" {
		m.tick()
		if t.Context().Err() != nil {
			t.Fatal("not all pods were started")
		}
	}
}

func killChild(t *testing.T, m *machine) {
	t.Helper()
	image, err := archive()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.v")
	child.Env = append(os.Environ(), childDir+"="+m.dir, childCgroups+"="+m.cgroups, childArchive+"="+image)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill() })
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if lines.Text() == "CHILD READY" {
			said.Reset()
			break
		}
	}
	if said.Len() > 0 {
		t.Fatalf("the child did not get ready:\n%s", said.String())
	}
	pid := m.shimChild(t, "wanted")
	if err := os.WriteFile(filepath.Join(m.dir, "pid"), fmt.Appendf(nil, "%d", pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
}

// shimChild finds a pod's process by its cgroup, without asking containerd.
func (m *machine) shimChild(t *testing.T, name string) int {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); ; <-tick.C { // a container is told to be running a moment before runc becomes it
		for _, pattern := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
			files, _ := filepath.Glob(filepath.Join(pattern, m.cgroups, "kubepods/*/poduid-"+name, "*/cgroup.procs"))
			for _, f := range files {
				data, _ := os.ReadFile(f)
				for _, field := range strings.Fields(string(data)) {
					var pid int
					if _, err := fmt.Sscan(field, &pid); err == nil && strings.Contains(commandLine(pid), "sleep") {
						return pid
					}
				}
			}
		}
		if time.Now().After(end) {
			t.Fatalf("pod %s has no process", name)
		}
	}
}

func commandLine(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(data), "\x00", " ")
}

func (m *machine) pid(pod *corev1.Pod) int { return m.shimChild(m.t, pod.Name) }

func readPod(t *testing.T, dir, name string) *corev1.Pod {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{}
	if err := yaml.Unmarshal(data, pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

func readPid(t *testing.T, dir string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// running is the ID of a pod's running container.
func (m *machine) running(uid types.UID) string {
	list, err := m.runtime.ListContainers(m.t.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State:         &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(uid)},
	}})
	if err != nil || len(list.Containers) == 0 {
		return ""
	}
	return list.Containers[0].Id
}
