package nodeapi

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	clientexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	criremote "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"knarr.dev/knarr/workloads/agent/cgroup"
	"knarr.dev/knarr/workloads/agent/pod"
)

// engine is a container runtime whose containers are this machine's own processes. Its streams are served by the
// very server containerd uses.
type engine struct {
	streams streaming.Server
	log     string
	running atomic.Bool
	data    string // a volume

	checkpoints func(*runtimeapi.CheckpointContainerRequest) error // nil: it cannot
	stuck       atomic.Pointer[chan struct{}]                      // pods are not answered for until it is closed
}

func (e *engine) Pods() []*corev1.Pod {
	if stuck := e.stuck.Load(); stuck != nil {
		<-*stuck
	}
	return []*corev1.Pod{{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "u1"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}, {Name: "waiting"}}, Volumes: []corev1.Volume{
			{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
		}},
	}}
}

func (e *engine) VolumePaths(types.UID) map[string]string { return map[string]string{"data": e.data} }

func (e *engine) Find(namespace, name string, _ types.UID, container string, previous bool) (pod.Place, error) {
	if namespace != "shop" || name != "web" {
		return pod.Place{}, pod.ErrNotFound
	}
	place := pod.Place{Pod: e.Pods()[0], SandboxID: "s1"}
	if container == "" {
		return place, nil
	}
	if container != "app" || previous {
		return place, pod.ErrNotFound
	}
	place.ContainerID, place.Running, place.LogPath = "c1", true, e.log
	return place, nil
}

func (e *engine) Exec(_ context.Context, q *runtimeapi.ExecRequest) (string, error) {
	response, err := e.streams.GetExec(q)
	return response.GetUrl(), err
}

func (e *engine) Attach(_ context.Context, q *runtimeapi.AttachRequest) (string, error) {
	response, err := e.streams.GetAttach(q)
	return response.GetUrl(), err
}

func (e *engine) PortForward(_ context.Context, q *runtimeapi.PortForwardRequest) (string, error) {
	response, err := e.streams.GetPortForward(q)
	return response.GetUrl(), err
}

func (e *engine) ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	state := runtimeapi.ContainerState_CONTAINER_EXITED
	if e.running.Load() {
		state = runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{State: state}}, nil
}

func (e *engine) ExecSync(_ context.Context, q *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	out, err := exec.Command(q.Cmd[0], q.Cmd[1:]...).Output()
	return &runtimeapi.ExecSyncResponse{Stdout: out}, err
}

func (e *engine) CheckpointContainer(_ context.Context, q *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	if e.checkpoints == nil {
		return nil, errors.New("it has no CRIU")
	}
	return &runtimeapi.CheckpointContainerResponse{}, e.checkpoints(q)
}

func (e *engine) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: []*runtimeapi.PodSandboxStats{{Attributes: &runtimeapi.PodSandboxAttributes{
		Id: "s1", Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u1"},
	}}}}, nil
}

func (e *engine) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{Id: "s1", Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u1"}}}}, nil
}

func (e *engine) ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{}, nil
}

func (e *engine) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}

// processes runs what the streaming server is asked for.
type processes struct{}

type exited struct{ *exec.ExitError }

func (e exited) ExitStatus() int { return e.ExitCode() }

func (processes) Exec(ctx context.Context, _ string, cmd []string, in io.Reader, out, errs io.WriteCloser, _ bool, _ <-chan criremote.TerminalSize) error {
	command := exec.CommandContext(ctx, cmd[0], cmd[1:]...)
	command.Stdin = in
	if out != nil {
		command.Stdout = out
	}
	if errs != nil {
		command.Stderr = errs
	}
	err := command.Run()
	if failed, ok := err.(*exec.ExitError); ok {
		return exited{failed}
	}
	return err
}

func (p processes) Attach(ctx context.Context, id string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan criremote.TerminalSize) error {
	return p.Exec(ctx, id, []string{"cat"}, in, out, errs, tty, resize)
}

func (processes) PortForward(_ context.Context, _ string, port int32, stream io.ReadWriteCloser) error {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() { _, _ = io.Copy(conn, stream) }()
	_, err = io.Copy(stream, conn)
	return err
}

// authority signs certificates for the test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue writes a certificate and its key into files.
func (a *authority) issue(t *testing.T, certFile, keyFile, name string, groups ...string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// rig is a running server, an API server that knows one token, and a client with a certificate.
type rig struct {
	t       *testing.T
	dir     string
	ca      *authority
	engine  *engine
	server  *Server
	base    string
	reviews atomic.Int64
	asked   atomic.Int64
	stop    func()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), ca: newAuthority(t), engine: &engine{data: t.TempDir(), log: filepath.Join(t.TempDir(), "0.log")}}
	r.engine.running.Store(true)

	listener := httptest.NewUnstartedServer(nil)
	config := streaming.DefaultConfig
	config.Addr = listener.Listener.Addr().String()
	streams, err := streaming.NewServer(config, processes{})
	if err != nil {
		t.Fatal(err)
	}
	listener.Config.Handler = streams
	listener.Start()
	t.Cleanup(listener.Close)
	r.engine.streams = streams

	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		r.reviews.Add(1)
		review := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		review.Status.Authenticated = review.Spec.Token == "good" || review.Spec.Token == "metrics"
		review.Status.User = authenticationv1.UserInfo{Username: review.Spec.Token}
		return true, review, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		r.asked.Add(1)
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		part := review.Spec.ResourceAttributes.Subresource
		review.Status.Allowed = review.Spec.User != "stranger" && (review.Spec.User != "metrics" || part == "metrics") && review.Spec.ResourceAttributes.Name == "n1"
		return true, review, nil
	})

	cert, key, ca := r.file("serving.crt"), r.file("serving.key"), r.file("client-ca.crt")
	r.ca.issue(t, cert, key, "n1")
	if err := os.WriteFile(ca, r.ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	r.ca.issue(t, r.file("admin.crt"), r.file("admin.key"), "apiserver-kubelet-client", "system:masters")
	r.ca.issue(t, r.file("stranger.crt"), r.file("stranger.key"), "stranger")
	probes, counted := prometheus.NewRegistry(), prometheus.NewCounterVec(prometheus.CounterOpts{Name: "prober_probe_total"}, []string{"result"})
	probes.MustRegister(counted)
	counted.WithLabelValues("successful").Add(3)
	r.server, err = New(Config{Address: "127.0.0.1:0", NodeName: "n1", DataDir: r.dir, CertFile: cert, KeyFile: key, ClientCAFile: ca,
		Client: client, Agent: r.engine, Runtime: r.engine, Groups: cgroup.New("/nobody"), Settings: map[string]any{"maxPods": 110}, Probes: probes, Checkpoints: filepath.Join(r.dir, "checkpoints")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- r.server.Run(ctx, func() { close(ready) }) }()
	<-ready
	r.stop = func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run() = %v, want nil after its context ended", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run() did not end within ten seconds")
		}
		done <- nil
	}
	t.Cleanup(r.stop)
	r.base = "https://" + r.server.Addr().String()
	return r
}

func (r *rig) file(name string) string { return filepath.Join(r.dir, name) }

// as is the configuration of a client with a certificate, or "" for none.
func (r *rig) as(who string) *rest.Config {
	config := &rest.Config{Host: r.base, TLSClientConfig: rest.TLSClientConfig{CAData: r.ca.pem}}
	if who != "" {
		config.CertFile, config.KeyFile = r.file(who+".crt"), r.file(who+".key")
	}
	return config
}

func (r *rig) get(config *rest.Config, path string) (int, string) {
	r.t.Helper()
	return r.send(config, http.MethodGet, path)
}

func (r *rig) post(config *rest.Config, path string) (int, string) {
	r.t.Helper()
	return r.send(config, http.MethodPost, path)
}

func (r *rig) send(config *rest.Config, method, path string) (int, string) {
	r.t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		r.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(r.t.Context(), method, r.base+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestAccess(t *testing.T) {
	r := newRig(t)
	withToken := func(token string) *rest.Config {
		config := r.as("")
		config.BearerToken = token
		return config
	}
	tests := map[string]struct {
		config *rest.Config
		path   string
		want   int
	}{
		"health is for everybody":               {config: r.as(""), path: "/healthz", want: 200},
		"its parts are not":                     {config: r.as(""), path: "/healthz/ping", want: 401},
		"nor are they for who has no right":     {config: r.as("stranger"), path: "/healthz/syncloop", want: 403},
		"a right to metrics is one to probes'":  {config: withToken("metrics"), path: "/metrics/probes", want: 200},
		"nobody may see pods":                   {config: r.as(""), path: "/pods", want: 401},
		"a path that is not there, to nobody":   {config: r.as(""), path: "/nowhere", want: 401},
		"a certificate of the cluster":          {config: r.as("admin"), path: "/pods", want: 200},
		"a certificate without rights":          {config: r.as("stranger"), path: "/pods", want: 403},
		"a token the API server knows":          {config: withToken("good"), path: "/pods", want: 200},
		"a token it does not":                   {config: withToken("bad"), path: "/pods", want: 401},
		"a right to metrics shows metrics":      {config: withToken("metrics"), path: "/metrics/resource", want: 200},
		"a right to metrics shows nothing else": {config: withToken("metrics"), path: "/stats/summary", want: 403},
		"a path that is not there":              {config: r.as("admin"), path: "/nowhere", want: 404},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got, body := r.get(tc.config, tc.path); got != tc.want {
				t.Errorf("GET %s = %d %s, want %d", tc.path, got, body, tc.want)
			}
		})
	}
	reviews, asked := r.reviews.Load(), r.asked.Load()
	for range 3 {
		r.get(withToken("good"), "/pods")
		r.get(withToken("bad"), "/pods")
	}
	if r.reviews.Load() != reviews || r.asked.Load() != asked {
		t.Error("the API server was asked again within seconds")
	}
}

func TestAnswers(t *testing.T) {
	r := newRig(t)
	for path, want := range map[string]string{
		"/pods":                                     `"kind":"PodList"`,
		"/runningpods/":                             `"name":"web"`,
		"/stats/summary":                            `"nodeName":"n1"`,
		"/metrics/resource":                         "node_cpu_usage_seconds_total ",
		"/metrics/cadvisor":                         "machine_memory_bytes ",
		"/metrics/probes":                           `prober_probe_total{result="successful"} 3`,
		"/metrics":                                  "go_goroutines",
		"/metrics?of=this-node":                     `kubelet_volume_stats_capacity_bytes{namespace="shop",persistentvolumeclaim="claim"} `,
		"/configz":                                  `{"kubeletconfig":{"maxPods":110}}`,
		"/containerLogs/shop/none/app":              `pod "none" not found`,
		"/containerLogs/shop/web/other":             "container other is not valid for pod web",
		"/containerLogs/shop/web/waiting":           `container "waiting" in pod "web" is waiting to start: ContainerCreating`,
		"/containerLogs/shop/web/app?previous=true": `previous terminated container "app" in pod "web" not found`,
		"/containerLogs/shop/web/app":               `the log of container "app" is gone`,
		"/exec/shop/web/app?command=true":           "you must specify at least 1 of stdin, stdout, stderr",
	} {
		if _, body := r.get(r.as("admin"), path); !strings.Contains(body, want) {
			t.Errorf("GET %s = %.300s, want it to say %s", path, body, want)
		}
	}
}

func TestHealth(t *testing.T) {
	r := newRig(t)
	for path, want := range map[string]string{
		"/healthz/ping": "ok", "/healthz/log": "ok", "/healthz/syncloop": "ok", "/healthz": "ok",
		"/healthz?verbose": "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n",
	} {
		if code, body := r.get(r.as("admin"), path); code != 200 || body != want {
			t.Errorf("GET %s = %d %q, want %q", path, code, body, want)
		}
	}
	stuck := make(chan struct{})
	r.engine.stuck.Store(&stuck)
	ctx, leave := context.WithCancel(t.Context())
	leave() // nobody waits in a test: who asks has gone, and there is no answer yet
	err := r.server.checkPods((&http.Request{}).WithContext(ctx))
	if err == nil || !strings.Contains(err.Error(), "stands still") {
		t.Errorf("a manager that does not answer: %v, want an error", err)
	}
	r.engine.stuck.Store(nil)
	close(stuck)
	if err := r.server.checkPods((&http.Request{}).WithContext(t.Context())); err != nil {
		t.Errorf("one that answers again: %v", err)
	}
}

func TestCheckpoint(t *testing.T) {
	var asked *runtimeapi.CheckpointContainerRequest
	can := func(q *runtimeapi.CheckpointContainerRequest) error { asked = q; return nil }
	tests := map[string]struct {
		who, path string
		runtime   func(*runtimeapi.CheckpointContainerRequest) error
		code      int
		says      string
	}{
		"a runtime that cannot":             {who: "admin", path: "shop/web/app", code: 500, says: "checkpointing of shop/web/app failed (it has no CRIU)"},
		"a runtime that can names the file": {who: "admin", path: "shop/web/app?timeout=7", runtime: can, code: 200, says: `{"items":["`},
		"a pod that is not here":            {who: "admin", path: "shop/none/app", runtime: can, code: 404, says: `pod "none" not found`},
		"a container that is not there":     {who: "admin", path: "shop/web/other", runtime: can, code: 404, says: "container other is not valid for pod web"},
		"a time that is none":               {who: "admin", path: "shop/web/app?timeout=soon", runtime: can, code: 400, says: `timeout="soon": use a number of seconds`},
		"somebody without the right":        {who: "stranger", path: "shop/web/app", runtime: can, code: 403, says: "Forbidden (user=stranger, verb=create, resource=nodes, subresource(s)=[checkpoint])"},
		"nobody":                            {path: "shop/web/app", runtime: can, code: 401, says: "Unauthorized"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.engine.checkpoints, asked = tc.runtime, nil
			code, body := r.post(r.as(tc.who), "/checkpoint/"+tc.path)
			if code != tc.code || !strings.Contains(body, tc.says) {
				t.Errorf("answer = %d %s, want %d and %s", code, body, tc.code, tc.says)
			}
			if tc.code != 200 {
				if asked != nil {
					t.Error("the runtime was asked all the same")
				}
				return
			}
			if asked.GetContainerId() != "c1" || asked.GetTimeout() != 7 || !strings.Contains(body, asked.GetLocation()) ||
				!strings.HasPrefix(asked.GetLocation(), r.file("checkpoints/checkpoint-web_shop-app-")) {
				t.Errorf("the runtime was asked for %+v, and the answer is %s", asked, body)
			}
			if at, err := os.Stat(r.file("checkpoints")); err != nil || at.Mode().Perm() != 0o700 {
				t.Errorf("the folder is %v, %v; want it for root alone", at, err)
			}
		})
	}
}

func TestCertificatesMayChange(t *testing.T) {
	r := newRig(t)
	serial := func() string {
		config := &tls.Config{RootCAs: x509.NewCertPool()}
		config.RootCAs.AddCert(r.ca.cert)
		conn, err := tls.Dial("tcp", r.server.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	if err := os.WriteFile(r.file("serving.crt"), []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != first {
		t.Error("a broken file replaced the certificate")
	}
	r.ca.issue(t, r.file("serving.crt"), r.file("serving.key"), "n1")
	if got := serial(); got == first {
		t.Error("the new certificate is not served")
	}
}

func TestLogsAreFollowedUntilTheContainerEnds(t *testing.T) {
	r := newRig(t)
	write := func(text string) {
		file, err := os.OpenFile(r.engine.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		fmt.Fprintf(file, "2026-01-02T03:04:05Z stdout F %s\n", text)
	}
	write("one")
	write("two")
	if _, body := r.get(r.as("admin"), "/containerLogs/shop/web/app?tailLines=1&timestamps=true"); body != "2026-01-02T03:04:05Z two\n" {
		t.Errorf("log = %q", body)
	}
	client, err := rest.HTTPClientFor(r.as("admin"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Get(r.base + "/containerLogs/shop/web/app?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(response.Body, got); err != nil || string(got) != want {
			t.Fatalf("log = %q (%v), want %q", got, err, want)
		}
	}
	expect("one\ntwo\n")
	write("three")
	expect("three\n")
	r.engine.running.Store(false)
	write("four")
	rest, err := io.ReadAll(response.Body)
	if err != nil || (string(rest) != "four\n" && string(rest) != "") { // "" when the end was seen before the line came
		t.Errorf("end of the log = %q, %v", rest, err)
	}
}

// executors are the two ways kubectl speaks, to one URL.
func (r *rig) executors(path string) map[string]remotecommand.Executor {
	r.t.Helper()
	address, err := url.Parse(r.base + path)
	if err != nil {
		r.t.Fatal(err)
	}
	overSPDY, err := remotecommand.NewSPDYExecutor(r.as("admin"), http.MethodPost, address)
	if err != nil {
		r.t.Fatal(err)
	}
	overWebSocket, err := remotecommand.NewWebSocketExecutor(r.as("admin"), http.MethodGet, address.String())
	if err != nil {
		r.t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"SPDY": overSPDY, "WebSocket": overWebSocket}
}

func TestExec(t *testing.T) {
	r := newRig(t)
	path := "/exec/shop/web/app?input=1&output=1&error=1&command=sh&command=-c&command=" + url.QueryEscape("cat; echo bad >&2; exit 3")
	for protocol, executor := range r.executors(path) {
		t.Run(protocol, func(t *testing.T) {
			var out, errs bytes.Buffer
			err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errs})
			code, ok := err.(clientexec.CodeExitError)
			if !ok || code.Code != 3 || out.String() != "hello" || errs.String() != "bad\n" {
				t.Errorf("exec = %q, %q, %v; want hello, bad and code 3", out.String(), errs.String(), err)
			}
		})
	}
}

func TestAttach(t *testing.T) {
	r := newRig(t)
	for protocol, executor := range r.executors("/attach/shop/web/u1/app?input=1&output=1") {
		t.Run(protocol, func(t *testing.T) {
			var out bytes.Buffer
			if err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out}); err != nil || out.String() != "hello" {
				t.Errorf("attach = %q, %v", out.String(), err)
			}
		})
	}
}

func TestRun(t *testing.T) {
	r := newRig(t)
	client, err := rest.HTTPClientFor(r.as("admin"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Post(r.base+"/run/shop/web/app?cmd=echo&cmd=hi", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "hi\n" {
		t.Errorf("run = %q, %v", body, err)
	}
}

func TestPortForward(t *testing.T) {
	r := newRig(t)
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "from the pod") }))
	defer application.Close()
	_, port, err := net.SplitHostPort(application.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	address, err := url.Parse(r.base + "/portForward/shop/web")
	if err != nil {
		t.Fatal(err)
	}
	roundTripper, upgrader, err := spdy.RoundTripperFor(r.as("admin"))
	if err != nil {
		t.Fatal(err)
	}
	overSPDY := spdy.NewDialer(upgrader, &http.Client{Transport: roundTripper}, http.MethodPost, address)
	overWebSocket, err := portforward.NewSPDYOverWebsocketDialer(address, r.as("admin"))
	if err != nil {
		t.Fatal(err)
	}
	for protocol, dialer := range map[string]httpstream.Dialer{"SPDY": overSPDY, "WebSocket": overWebSocket} {
		t.Run(protocol, func(t *testing.T) {
			stop, ready, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			forwarder, err := portforward.New(dialer, []string{"0:" + port}, stop, ready, io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			go func() { done <- forwarder.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-done:
				t.Fatal(err)
			}
			defer func() { close(stop); <-done }()
			ports, err := forwarder.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(response.Body)
				response.Body.Close()
				if string(body) != "from the pod" {
					t.Errorf("answer = %q", body)
				}
			}
		})
	}
}

func TestStoppingCutsStreams(t *testing.T) {
	r := newRig(t)
	executor := r.executors("/exec/shop/web/app?input=1&output=1&command=cat")["SPDY"]
	in, _ := io.Pipe() // never says anything
	out, began := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- executor.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdin: io.MultiReader(strings.NewReader("x"), in), Stdout: began})
	}()
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.stop()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("the stream is still open after the server stopped")
	}
}
