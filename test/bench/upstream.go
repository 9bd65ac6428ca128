package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"knarr.dev/knarr/bootstrap/pki"
)

// unlimited is more requests a second than any component of one machine sends.
const unlimited = "100000"

// upstream is upstream's control plane on loopback, started from a folder of its binaries.
type upstream struct {
	bin, dir string
	lift     bool // no limit on the requests a second of controller manager and scheduler
	running  []*exec.Cmd
}

func (u *upstream) kubeconfigFile() string { return filepath.Join(u.dir, "kubeconfig") }

func (u *upstream) processes() []int {
	var pids []int
	for _, p := range u.running {
		pids = append(pids, p.Process.Pid)
	}
	return pids
}

func (u *upstream) start() error {
	service := netip.MustParseAddr("10.43.0.1")
	keys, err := pki.Ensure(filepath.Join(u.dir, "pki"), pki.Want{
		NodeName: "bench", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, KubernetesService: service, ClusterDomain: "cluster.local",
	})
	if err != nil {
		return err
	}
	public, err := publicKey(keys, u.dir)
	if err != nil {
		return err
	}
	var ports [3]string
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return err
		}
	}
	store, peer, secure := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1], ports[2]
	if err := pki.WriteKubeconfig(u.kubeconfigFile(), "https://127.0.0.1:"+secure, keys.ClusterCA, keys.Admin); err != nil {
		return err
	}
	limits := []string{}
	if u.lift {
		limits = []string{"--kube-api-qps=" + unlimited, "--kube-api-burst=" + unlimited}
	}
	clients := append([]string{
		"--kubeconfig=" + u.kubeconfigFile(), "--authentication-kubeconfig=" + u.kubeconfigFile(), "--authorization-kubeconfig=" + u.kubeconfigFile(),
		"--leader-elect=false", "--secure-port=0",
	}, limits...)
	for _, program := range []struct {
		name string
		args []string
	}{
		{"etcd", []string{
			"--data-dir=" + filepath.Join(u.dir, "etcd"), "--listen-client-urls=" + store, "--advertise-client-urls=" + store,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer, "--log-level=warn",
		}},
		{"kube-apiserver", []string{
			"--etcd-servers=" + store, "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1", "--secure-port=" + secure,
			"--tls-cert-file=" + keys.APIServer.CertFile, "--tls-private-key-file=" + keys.APIServer.KeyFile, "--client-ca-file=" + keys.ClientCA.CertFile,
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file=" + public,
			"--service-account-signing-key-file=" + keys.ServiceAccountKeyFile, "--service-cluster-ip-range=10.43.0.0/16",
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		}},
		{"kube-controller-manager", append([]string{
			"--service-account-private-key-file=" + keys.ServiceAccountKeyFile, "--root-ca-file=" + keys.ClusterCA.CertFile,
		}, clients...)},
		{"kube-scheduler", clients},
	} {
		if err := u.run(program.name, program.args); err != nil {
			return err
		}
	}
	return nil
}

func (u *upstream) run(name string, args []string) error {
	log, err := os.OpenFile(filepath.Join(u.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(u.bin, name), args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, u.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w (test/bench/README.md says where it comes from)", name, err)
	}
	u.running = append(u.running, cmd)
	return nil
}

// remove ends what was started, the last first.
func (u *upstream) remove() error {
	var errs []error
	for i := len(u.running) - 1; i >= 0; i-- {
		p := u.running[i]
		if err := p.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
		kill := time.AfterFunc(10*time.Second, func() { _ = p.Process.Kill() })
		_ = p.Wait() // ended by our signal, which counts as a failure
		kill.Stop()
	}
	return errors.Join(errs...)
}

// publicKey writes what service-account tokens are verified with; kube-apiserver does not read it from the private key.
func publicKey(keys *pki.PKI, dir string) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(keys.ServiceAccountKey.Public())
	if err != nil {
		return "", fmt.Errorf("encode the service-account key: %w", err)
	}
	path := filepath.Join(dir, "service-account.pub")
	return path, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600)
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}
