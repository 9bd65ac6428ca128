package pod

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/translate"
)

func preStop(pod *corev1.Pod, container string) *corev1.LifecycleHandler {
	c := translate.Find(pod, container)
	if c == nil || c.Lifecycle == nil {
		return nil
	}
	return c.Lifecycle.PreStop
}

// runHook runs a postStart or preStop hook to its end.
func (m *Manager) runHook(ctx context.Context, a *actor, pod *corev1.Pod, container, id string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		answer, err := m.conf.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: h.Exec.Command})
		if err != nil {
			return fmt.Errorf("run %q: %w", h.Exec.Command, err)
		}
		if answer.ExitCode != 0 {
			return fmt.Errorf("command %q exited with %d: %s", h.Exec.Command, answer.ExitCode, clip(answer.Stdout)+clip(answer.Stderr))
		}
		return nil
	case h.HTTPGet != nil:
		a.mu.Lock()
		ip := a.podIP()
		a.mu.Unlock()
		return httpHook(ctx, pod, container, ip, h.HTTPGet)
	case h.Sleep != nil:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		}
	}
	return errors.New("hook has no handler this node knows")
}

const clipBytes = 1024

func clip(b []byte) string { return string(b[:min(len(b), clipBytes)]) }

func httpHook(ctx context.Context, pod *corev1.Pod, container, ip string, get *corev1.HTTPGetAction) error {
	port, err := hookPort(pod, container, get.Port)
	if err != nil {
		return err
	}
	host := get.Host
	if host == "" {
		host = ip
	}
	scheme := strings.ToLower(string(get.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	url := scheme + "://" + net.JoinHostPort(host, strconv.Itoa(port)) + "/" + strings.TrimPrefix(get.Path, "/")
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for _, h := range get.HTTPHeaders {
		request.Header.Add(h.Name, h.Value)
		if strings.EqualFold(h.Name, "Host") {
			request.Host = h.Value
		}
	}
	// A pod's certificate is for its service's name, not for its address.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 10<<10)) // the answer is what counts
	if answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s answered %s", url, answer.Status)
	}
	return nil
}

func hookPort(pod *corev1.Pod, container string, port intstr.IntOrString) (int, error) {
	if port.Type == intstr.Int {
		return port.IntValue(), nil
	}
	if c := translate.Find(pod, container); c != nil {
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				return int(p.ContainerPort), nil
			}
		}
	}
	if n, err := strconv.Atoi(port.StrVal); err == nil {
		return n, nil
	}
	return 0, fmt.Errorf("container %q has no port named %q", container, port.StrVal)
}

// fileKey reads KEY=VALUE lines of a file in a volume.
func fileKey(volume string, ref *corev1.FileKeySelector) (string, bool, error) {
	if volume == "" {
		return "", false, translate.ConfigError{Message: fmt.Sprintf("volume %q of an environment file is not there", ref.VolumeName)}
	}
	root, err := os.OpenRoot(volume)
	if err != nil {
		return "", false, fmt.Errorf("open volume %q: %w", ref.VolumeName, err)
	}
	defer root.Close()
	f, err := root.Open(filepath.Clean(ref.Path))
	if errors.Is(err, os.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("open environment file: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		key, value, ok := strings.Cut(line, "=")
		if ok && !strings.HasPrefix(line, "#") && strings.TrimSpace(key) == ref.Key {
			return unquote(strings.TrimSpace(value)), true, nil
		}
	}
	return "", false, lines.Err()
}

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '\'' || s[0] == '"') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}
