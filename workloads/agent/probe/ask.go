package probe

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	userAgent   = "kube-probe/1.37" // servers tell probes from users by it
	longestBody = 10 << 10
)

// target is one question, with everything looked up.
type target struct {
	containerID string
	timeout     time.Duration
	exec        []string
	http        *corev1.HTTPGetAction
	host, port  string // of http, tcp and grpc
	tcp         bool
	grpc        bool
	service     string
	problem     string // why it cannot be asked
}

// targetOf resolves names and defaults of a probe once.
func targetOf(c *container, probe *corev1.Probe) target {
	t := target{containerID: c.id, timeout: timeout(probe)}
	named := func(port intstr.IntOrString, host string) {
		t.host = cmp.Or(host, c.ip)
		if t.port, t.problem = portOf(c.spec, port); t.host == "" {
			t.problem = "the pod has no address"
		}
	}
	switch {
	case probe.Exec != nil:
		t.exec = probe.Exec.Command
	case probe.HTTPGet != nil:
		t.http = probe.HTTPGet
		named(probe.HTTPGet.Port, probe.HTTPGet.Host)
	case probe.TCPSocket != nil:
		t.tcp = true
		named(probe.TCPSocket.Port, probe.TCPSocket.Host)
	case probe.GRPC != nil:
		t.grpc = true
		if probe.GRPC.Service != nil {
			t.service = *probe.GRPC.Service
		}
		named(intstr.FromInt32(probe.GRPC.Port), "")
	default:
		t.problem = "the probe names no action: set exec, httpGet, tcpSocket or grpc"
	}
	return t
}

// portOf finds a port by number or by one of the container's names.
func portOf(c *corev1.Container, port intstr.IntOrString) (number, problem string) {
	n := port.IntValue()
	if port.Type == intstr.String {
		for _, named := range c.Ports {
			if named.Name == port.StrVal {
				n = int(named.ContainerPort)
			}
		}
	}
	if n < 1 || n > 65535 {
		return "", fmt.Sprintf("port %q is neither a number nor a port of container %q", port.String(), c.Name)
	}
	return strconv.Itoa(n), ""
}

// asker makes attempts. It is shared: a probe costs no client of its own.
type asker struct {
	runtime Runtime
	dialer  *net.Dialer
	client  *http.Client
}

func newAsker(runtime Runtime) *asker {
	// A second of linger instead of a minute of TIME_WAIT: probes open many connections and care for none.
	dialer := &net.Dialer{Control: func(_, _ string, conn syscall.RawConn) error {
		return conn.Control(func(fd uintptr) {
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
		})
	}}
	return &asker{runtime: runtime, dialer: dialer, client: &http.Client{
		CheckRedirect: followLocally,
		Transport: &http.Transport{
			DialContext:        dialer.DialContext,
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // the API says so: a pod's address is in no certificate
			DisableKeepAlives:  true,
			DisableCompression: true,
		},
	}}
}

// followLocally ends a redirect to another host: the container answered, and that other host is not the question.
func followLocally(next *http.Request, via []*http.Request) error {
	if next.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

// ask makes one attempt.
func (a *asker) ask(ctx context.Context, t target) answer {
	if t.problem != "" {
		return answer{outcome: unknown, message: t.problem}
	}
	if t.exec != nil {
		return a.askExec(ctx, t)
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	switch {
	case t.http != nil:
		return a.askHTTP(ctx, t)
	case t.tcp:
		return a.askTCP(ctx, t)
	default:
		return a.askGRPC(ctx, t)
	}
}

func (a *asker) askExec(ctx context.Context, t target) answer {
	response, err := a.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: t.containerID, Cmd: t.exec, Timeout: int64(t.timeout / time.Second)})
	if errdefs.IsDeadlineExceeded(err) || errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded {
		return answer{outcome: failure, message: fmt.Sprintf("command timed out: %q timed out after %s", t.exec, t.timeout)}
	}
	if err != nil {
		return answer{outcome: unknown, message: err.Error()}
	}
	output := append(response.GetStdout(), response.GetStderr()...)
	message := string(output[:min(len(output), longestBody)])
	if response.GetExitCode() != 0 {
		return answer{outcome: failure, message: message}
	}
	return answer{outcome: success, message: message}
}

func (a *asker) askTCP(ctx context.Context, t target) answer {
	conn, err := a.dialer.DialContext(ctx, "tcp", net.JoinHostPort(t.host, t.port))
	if err != nil {
		return answer{outcome: failure, message: err.Error()}
	}
	_ = conn.Close() // it was open: that was the question
	return answer{outcome: success}
}

func (a *asker) askHTTP(ctx context.Context, t target) answer {
	request, err := newRequest(ctx, t)
	if err != nil {
		return answer{outcome: unknown, message: err.Error()}
	}
	response, err := a.client.Do(request)
	if err != nil {
		return answer{outcome: failure, message: describe(err)}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, longestBody))
	if err != nil {
		return answer{outcome: failure, message: describe(err)}
	}
	switch code := response.StatusCode; {
	case code >= 300 && code < 400:
		return answer{outcome: success, message: string(body), warning: "Probe terminated redirects, Response body: " + string(body)}
	case code >= 200 && code < 300:
		return answer{outcome: success, message: string(body)}
	default:
		return answer{outcome: failure, message: fmt.Sprintf("HTTP probe failed with statuscode: %d", code)}
	}
}

// describe says what a timeout was, as users search for it.
func describe(err error) string {
	var failed *url.Error
	if errors.As(err, &failed) && failed.Timeout() {
		failed.Err = errors.New("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")
	}
	return err.Error()
}

// newRequest builds the request of a probe. The path may carry a query; a header named Host is the host asked for, and
// an empty User-Agent or Accept means none is sent.
func newRequest(ctx context.Context, t target) (*http.Request, error) {
	scheme := "http"
	if t.http.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	address, err := url.Parse(t.http.Path)
	if err != nil { // a path is whatever the user wrote; one that is no URL is sent as it is
		address = &url.URL{Path: t.http.Path}
	}
	address.Scheme, address.Host = scheme, net.JoinHostPort(t.host, t.port)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("build request: %w", err)
	}
	for _, header := range t.http.HTTPHeaders {
		request.Header.Add(header.Name, header.Value)
	}
	request.Host = request.Header.Get("Host") // "" means the address
	if _, set := request.Header["User-Agent"]; !set {
		request.Header.Set("User-Agent", userAgent)
	}
	if values, set := request.Header["Accept"]; !set {
		request.Header.Set("Accept", "*/*")
	} else if values[0] == "" {
		request.Header.Del("Accept")
	}
	return request, nil
}

func (a *asker) askGRPC(ctx context.Context, t target) answer {
	address := net.JoinHostPort(t.host, t.port)
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithUserAgent(userAgent),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the API offers no TLS for these
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return a.dialer.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		return answer{outcome: unknown, message: err.Error()}
	}
	defer conn.Close()
	response, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{Service: t.service})
	switch status.Code(err) {
	case codes.OK:
		if response.GetStatus() == healthv1.HealthCheckResponse_SERVING {
			return answer{outcome: success, message: "service healthy"}
		}
		return answer{outcome: failure, message: fmt.Sprintf("service unhealthy (responded with %q)", response.GetStatus())}
	case codes.Unimplemented:
		return answer{outcome: failure, message: fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())}
	case codes.DeadlineExceeded:
		return answer{outcome: failure, message: fmt.Sprintf("timeout: health rpc did not complete within %s", t.timeout)}
	case codes.Unavailable:
		return answer{outcome: failure, message: fmt.Sprintf("timeout: failed to connect service %q within %s: %s", address, t.timeout, status.Convert(err).Message())}
	}
	return answer{outcome: failure, message: fmt.Sprintf("error: health rpc failed: %v", err)}
}
