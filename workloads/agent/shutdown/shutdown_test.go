package shutdown

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/workloads/agent/pressure"
)

func held(name string, priority int32, change ...func(*corev1.Pod)) pressure.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: &priority}}
	for _, c := range change {
		c(pod)
	}
	return pressure.Pod{Pod: pod}
}

func TestWaves(t *testing.T) {
	steps := []Step{{Priority: 1000, Grace: 10 * time.Second}, {Priority: 0, Grace: 20 * time.Second}}
	over := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	tests := map[string]struct {
		pods []pressure.Pod
		want []string
	}{
		"nobody is there":                        {},
		"the least important end first":          {pods: []pressure.Pod{held("b", 1000), held("a", 0)}, want: []string{"0: a", "1000: b"}},
		"between two steps the lower one counts": {pods: []pressure.Pod{held("a", 999), held("b", 2000000000)}, want: []string{"0: a", "1000: b"}},
		"below all steps the lowest one counts":  {pods: []pressure.Pod{held("a", -5)}, want: []string{"0: a"}},
		"who has ended already need not":         {pods: []pressure.Pod{held("a", 0, over)}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, w := range waves(steps, tc.pods) {
				for _, p := range w.pods {
					got = append(got, fmt.Sprintf("%d: %s", w.Priority, p.Name))
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("waves() (-want +got):\n%s", diff)
			}
		})
	}
	for name, tc := range map[string]struct {
		own  *int64
		want int64
	}{"as much as it asks for": {new(int64(3)), 3}, "no more than its wave has": {new(int64(300)), 10}, "what its wave has": {nil, 10}} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{TerminationGracePeriodSeconds: tc.own}}
			if got := (wave{Step: steps[0]}).graceOf(pod); got != tc.want {
				t.Errorf("graceOf() = %d, want %d", got, tc.want)
			}
		})
	}
}

// pods that end as soon as they are told to.
type pods struct {
	mu      sync.Mutex
	holding []pressure.Pod
	told    map[types.UID]pressure.Eviction
	order   chan string
}

func (p *pods) Holding() []pressure.Pod { return p.holding }

func (p *pods) Evict(uid types.UID, e pressure.Eviction) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told[uid] = e
	p.order <- string(uid)
	return true
}

func (p *pods) Told(uid types.UID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, told := p.told[uid]
	return told
}

// logindOn is as much of systemd-logind as the component talks to, on a bus of its own.
type logindOn struct {
	conn *dbus.Conn
	held chan lock
}

// lock is one inhibitor: a pipe that reads its end when nobody holds the other one.
type lock struct {
	ours *os.File
	sent int // what the component got a copy of
}

func (l *logindOn) Inhibit(what, _, _, mode string) (dbus.UnixFD, *dbus.Error) {
	if what != "shutdown" || mode != "delay" {
		return 0, dbus.MakeFailedError(fmt.Errorf("asked to inhibit %s by %s", what, mode))
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	fd, err := syscall.Dup(int(w.Fd()))
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	_ = w.Close()
	l.held <- lock{r, fd}
	return dbus.UnixFD(fd), nil
}

func (l *logindOn) going(t *testing.T, down bool) {
	t.Helper()
	if err := l.conn.Emit(place, manager+"."+going, down); err != nil {
		t.Fatal(err)
	}
}

// bus starts a D-Bus daemon that ends with the test, and returns its address.
func bus(t *testing.T) string {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("there is no dbus-daemon here")
	}
	dir := t.TempDir() // for its socket as well
	conf := filepath.Join(dir, "bus.conf")
	text := `<busconfig><type>session</type><listen>unix:dir=` + dir + `</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+conf, "--nofork", "--print-address=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(address)
}

func TestTheMachineWaitsForItsPods(t *testing.T) {
	address := bus(t)
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	login := &logindOn{conn: conn, held: make(chan lock, 10)}
	if err := conn.Export(login, place, manager); err != nil {
		t.Fatal(err)
	}
	if reply, err := conn.RequestName(logind, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("become logind: %v %v", reply, err)
	}

	node := &pods{
		holding: []pressure.Pod{held("critical", 2000000000), held("plain", 0)},
		told:    map[types.UID]pressure.Eviction{}, order: make(chan string, 10),
	}
	notice, changed := &Notice{}, make(chan bool, 10)
	s := New(Config{
		Steps: []Step{{Priority: 0, Grace: time.Minute}, {Priority: 2000000000, Grace: time.Minute}}, Notice: notice, Pods: node,
		Changed: func() { changed <- notice.Underway() },
		Bus:     func(o ...dbus.ConnOption) (*dbus.Conn, error) { return dbus.Connect(address, o...) },
		Log:     slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func() {}) }()

	first := receive(t, login.held, "an inhibitor")
	login.going(t, true)
	if !receive(t, changed, "the notice") {
		t.Error("the notice says that the machine stays")
	}
	for _, want := range []string{"plain", "critical"} {
		if got := receive(t, node.order, "the end of a pod"); got != want {
			t.Errorf("pod %s was ended when it was %s's turn", got, want)
		}
	}
	released(t, first)
	if e := node.told["plain"]; e.Reason != "Terminated" || !e.Disrupted {
		t.Errorf("the pod was told %+v", e)
	}

	login.going(t, false) // called off
	if receive(t, changed, "the notice") {
		t.Error("the notice says that the machine goes")
	}
	again := receive(t, login.held, "another inhibitor")
	login.going(t, true) // it has this one too, or it would not hear
	receive(t, changed, "the notice")
	stop()
	if err := receive(t, done, "the end"); err != nil {
		t.Errorf("Run() = %v", err)
	}
	released(t, again) // who is stopped holds nobody up
}

func TestAMachineWithoutABus(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	asked := make(chan struct{}, 1)
	s := New(Config{
		Notice: &Notice{}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Bus: func(...dbus.ConnOption) (*dbus.Conn, error) {
			asked <- struct{}{}
			return nil, os.ErrNotExist
		},
	})
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func() {}) }()
	receive(t, asked, "a look for the bus")
	stop()
	if err := receive(t, done, "the end"); err != nil {
		t.Errorf("Run() = %v", err)
	}
}

func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(time.Minute):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

// released waits until nobody holds the other end, once the component has its own.
func released(t *testing.T, l lock) {
	t.Helper()
	_ = syscall.Close(l.sent)
	end := make(chan error, 1)
	go func() {
		_, err := l.ours.Read(make([]byte, 1))
		end <- err
	}()
	if err := receive(t, end, "the release of the inhibitor"); err == nil {
		t.Error("somebody wrote into an inhibitor")
	}
	_ = l.ours.Close()
}
