// Package hostile_test is what an ill-meaning or broken client does to the API server.
//
// In:       nothing but a temporary folder; COUNT of mutations a kind in KNARR_HOSTILE (a modest one otherwise), its SEED
//
//	in KNARR_HOSTILE_SEED, and KNARR_HOSTILE_ONLY=RESOURCE,RESOURCE for some kinds; a kubeconfig of another API server
//	in KNARR_HOSTILE_OTHER, if their answers are to be compared.
//
// Out:      a server in a process of its own on a real datastore, and clients that send it what nobody should.
// Promise:  a failure names the seed and shows the request, so that it can be sent again.
// Not here: what each kind allows (appliance/apiserver/kinds), who may do what (test/access).
package hostile_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"knarr.dev/knarr/appliance/apiserver/servertest"
)

// serveIn makes the test binary the server: what it survives and what memory it takes must be its own.
const serveIn = "KNARR_HOSTILE_SERVER"

// server is the one all tests of the package attack.
var server *child

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveIn); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	klog.SetLogger(logr.Discard())
	dir, err := os.MkdirTemp("", "knarr-hostile-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if server, err = start(dir); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	return m.Run(), nil
}

// introduction is what the server tells about itself once it is ready.
type introduction struct {
	URL, CA, Cert, Key string // files but for the URL
}

// serve is the child: a server until its input ends, as it does when the parent dies.
func serve(dir string) error {
	// The tests show it when the server no longer answers.
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	klog.SetLogger(logr.Discard())
	s, err := servertest.Start(dir)
	if err != nil {
		return err
	}
	said := json.NewEncoder(os.Stdout).Encode(introduction{URL: s.URL, CA: s.PKI.ClusterCA.CertFile, Cert: s.PKI.Admin.CertFile, Key: s.PKI.Admin.KeyFile})
	_, _ = io.Copy(io.Discard, os.Stdin)
	return errors.Join(said, s.Stop())
}

// child is the server's process, seen from the tests.
type child struct {
	introduction
	cmd    *exec.Cmd
	input  io.Closer
	output *bytes.Buffer // of a process that died: why
	config *rest.Config
	http   *http.Client
	ca     []byte
}

func start(dir string) (*child, error) {
	c := &child{cmd: exec.Command(os.Args[0]), output: &bytes.Buffer{}}
	c.cmd.Env = append(os.Environ(), serveIn+"="+dir)
	c.cmd.Stderr = c.output
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c.input = stdin
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the server: %w\n%s", err, c.output), c.cmd.Wait())
	}
	if err := json.Unmarshal(line, &c.introduction); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	if c.ca, err = os.ReadFile(c.CA); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	c.config = &rest.Config{Host: c.URL, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAFile: c.CA, CertFile: c.Cert, KeyFile: c.Key}}
	if c.http, err = rest.HTTPClientFor(c.config); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func (c *child) stop() error {
	_ = c.input.Close()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("the server ended badly: %w\n%s", err, tail(c.output.String(), 20_000))
	}
	return nil
}

func tail(s string, most int) string {
	if len(s) > most {
		return s[:most/2] + "\n...\n" + s[len(s)-most/2:]
	}
	return s
}

// connection is a client of its own, over one TCP connection.
func (c *child) connection(t *testing.T) *http.Client {
	t.Helper()
	tlsConfig, err := rest.TLSConfigFor(c.config)
	if err != nil {
		t.Fatal(err)
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)
	transport := &http.Transport{TLSClientConfig: tlsConfig, Protocols: protocols, HTTP2: &http.HTTP2Config{StrictMaxConcurrentRequests: true}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// dial opens a connection that says nothing of itself.
func (c *child) dial(ctx context.Context) (*tls.Conn, error) {
	tlsConfig, err := rest.TLSConfigFor(c.config)
	if err != nil {
		return nil, err
	}
	tlsConfig.NextProtos = []string{"http/1.1"}
	conn, err := (&tls.Dialer{Config: tlsConfig}).DialContext(ctx, "tcp", strings.TrimPrefix(c.URL, "https://"))
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

func (c *child) clientset(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(c.config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// pss is the server's memory in MiB, its share of what it maps together with others.
func (c *child) pss(t *testing.T) float64 {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.cmd.Process.Pid), "smaps_rollup"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "Pss: %f kB", &kib); err == nil {
			return kib / 1024
		}
	}
	t.Fatalf("no Pss in smaps_rollup:\n%s", content)
	return 0
}

// answers fails the test when the server no longer answers as usual.
func (c *child) answers(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+"/api/v1/namespaces/default", nil)
	if err != nil {
		t.Error(err)
		return patience
	}
	response, err := c.http.Do(request)
	if err != nil {
		t.Errorf("the server does not answer: %v", err)
		return patience
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("the server answers %s, %v", response.Status, err)
	}
	return time.Since(began)
}

// patience is far above what any answer takes on a busy machine.
const patience = time.Minute

// number reads a count from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, text)
	}
	return n
}
