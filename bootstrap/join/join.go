// Package join makes a machine a member of a running cluster, and keeps it one.
//
// In:       a server's address and a token, once; afterwards what is stored in the folder of keys.
// Out:      the cluster's settings, a client certificate system:node:NAME, and a serving certificate of the node.
// Promise:  nothing is sent to a server that does not hold the authority the token names; a restart needs neither token
// nor server; each thing that can go wrong is one error that says what to do.
// Not here: making tokens (bootstrap/token), approving and signing (workloads/certificates), further masters.
package join

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/durable"
	"knarr.dev/knarr/bootstrap/pki"
	"knarr.dev/knarr/bootstrap/token"
	"knarr.dev/knarr/bootstrap/watching"
)

// patience is how long all of joining may take. Servers answer within a second; this is for one that is starting.
const patience = time.Minute

// briefly is how long a machine that is a member waits at its start for news of its cluster.
const briefly = 2 * time.Second

// starting is how long a server may refuse what it will grant once it has started.
const starting = 10 * time.Second

// Member is this machine's place in a cluster.
type Member struct {
	Server   string // https://HOST:PORT
	Settings Settings

	dir      string
	nodeName string
	nodeIPs  []net.IP // what the serving certificate names; Complete knows them
	log      *slog.Logger
	now      func() time.Time
	api      *rest.Config         // as the node
	client   kubernetes.Interface // the same
}

// Join returns this machine's place in the cluster: the stored one, or a new one won with the token.
func Join(ctx context.Context, c *config.Config) (*Member, error) {
	return join(ctx, c, time.Now)
}

func join(ctx context.Context, c *config.Config, now func() time.Time) (*Member, error) {
	m := &Member{
		dir: c.Paths().PKI(), nodeName: c.NodeName,
		log: slog.With("component", "join"), now: now,
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for keys: %w", err)
	}
	stored, err := m.load(now())
	if err != nil {
		return nil, err
	}
	switch {
	case stored && c.Token != "":
		err = m.sameCluster(string(c.Token))
	case stored:
	default:
		err = m.enter(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	if c.Join != "" && m.Server != c.Join { // the server may have moved; its authority is checked as ever
		m.Server = c.Join
		if err := m.storeState(); err != nil {
			return nil, err
		}
	}
	if err := m.connect(); err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", m.Server, err)
	}
	if stored {
		m.refresh(ctx)
	}
	return m, nil
}

// refresh takes over what the cluster says of itself now. A machine that starts while no server answers goes on with what
// it was told last.
func (m *Member) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, briefly)
	defer cancel()
	found, err := m.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, ConfigMapName, metav1.GetOptions{})
	if err != nil {
		m.log.Debug("the cluster's settings of last time are used", "error", err)
		return
	}
	settings, err := readSettings(found.Data)
	if err != nil {
		m.log.Warn("the cluster's settings are damaged; those of last time are used", "config map", metav1.NamespaceSystem+"/"+ConfigMapName, "error", err)
		return
	}
	if settings == m.Settings {
		return
	}
	before := m.Settings
	m.Settings = settings
	if err := errors.Join(durable.Write(m.ClientCAFile(), []byte(settings.ClientCA), 0o600), m.storeState()); err != nil {
		m.Settings = before
		m.log.Warn("the cluster's settings have changed and could not be kept; those of last time are used", "error", err)
		return
	}
	m.log.Info("the cluster's settings have changed", "server", m.Server)
}

// connect makes the one transport that everything on this node shares: client-go would make another connection for
// each client that dials in a way of its own.
func (m *Member) connect() (err error) {
	file := filepath.Join(m.dir, pki.NodeClientFile)
	m.api = pki.RESTConfig(m.Server, m.ClusterCAFile(), file+".crt", file+".key")
	m.api.Dial = reach
	if m.api.Transport, err = rest.TransportFor(m.api); err != nil {
		return err
	}
	m.api.Dial, m.api.TLSClientConfig = nil, rest.TLSClientConfig{} // the transport's now
	m.api = watching.Through(m.api)
	m.client, err = kubernetes.NewForConfig(m.api)
	return err
}

// RESTConfig is how this node reaches the API server. It follows renewals.
func (m *Member) RESTConfig() *rest.Config { return rest.CopyConfig(m.api) }

// ClusterCAFile is what the API server's certificate is checked against.
func (m *Member) ClusterCAFile() string { return filepath.Join(m.dir, pki.ClusterCAFile) }

// ClientCAFile is what clients of this node's API are checked against.
func (m *Member) ClientCAFile() string { return filepath.Join(m.dir, pki.ClientCAFile) }

// Complete fills in what an agent's configuration leaves to the cluster. Which of the machine's addresses count depends on
// the cluster's families.
func (m *Member) Complete(c *config.Config) error {
	c.ClusterCIDR, c.ServiceCIDR = m.Settings.ClusterCIDR, m.Settings.ServiceCIDR
	c.ClusterDNS, c.ClusterDomain, c.CloudProvider = m.Settings.ClusterDNS, m.Settings.ClusterDomain, m.Settings.CloudProvider
	c.LoadBalancerAddresses = m.Settings.LoadBalancers
	c.Overlay = m.Settings.Overlay
	c.PodNetwork = cmp.Or(m.Settings.PodNetwork, config.KnarrNetwork) // servers of before did not say
	if err := c.FindNodeIP(); err != nil {
		return err
	}
	addresses, err := config.Addresses(c.NodeIP)
	if err != nil {
		return fmt.Errorf("node-ip %q %w", c.NodeIP, err)
	}
	for _, ip := range addresses {
		m.nodeIPs = append(m.nodeIPs, ip.AsSlice())
	}
	return nil
}

// sameCluster refuses a token of another cluster: a member cannot be of two.
func (m *Member) sameCluster(text string) error {
	t, err := token.Parse(text)
	if err != nil {
		return err
	}
	ca, err := readCA(m.ClusterCAFile())
	if err != nil {
		return err
	}
	if pki.Pin(ca) != t.Pin {
		return fmt.Errorf("this machine belongs to the cluster of %s and the token is of another one: run `knarr reset` here to leave the first", m.Server)
	}
	return nil
}

func readCA(path string) (*x509.Certificate, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority: %w", err)
	}
	certs, err := pki.ParseCerts(content)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority %s: %w", path, err)
	}
	return certs[0], nil
}

// enter wins a place with the token.
func (m *Member) enter(ctx context.Context, c *config.Config) error {
	switch {
	case c.Join == "":
		return errors.New("this machine is in no cluster yet: set join to https://HOST:6443 of a server, and token to what `knarr token create` prints there")
	case c.Token == "":
		return fmt.Errorf("a token is needed to join %s: set token to what `knarr token create` prints on that server", c.Join)
	}
	t, err := token.Parse(string(c.Token))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m.Server = c.Join
	ca, err := findAuthority(ctx, m.Server, t.Pin, m.now())
	if err != nil {
		return fmt.Errorf("join %s: %w", m.Server, err)
	}
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: m.Server, BearerToken: t.Bearer(), TLSClientConfig: rest.TLSClientConfig{CAData: pki.MarshalCert(ca)},
	})
	if err != nil {
		return fmt.Errorf("join %s: %w", m.Server, err)
	}
	if m.Settings, err = fetchSettings(ctx, client); err != nil {
		return fmt.Errorf("join %s: %w", m.Server, err)
	}
	key, cert, err := request(ctx, client, m.clientRequest())
	if err != nil {
		return fmt.Errorf("join %s as node %s: %w", m.Server, m.nodeName, explain(err))
	}
	// The state goes last: what it names is then complete, and a machine without it joins again.
	if err := errors.Join(
		durable.Write(m.ClusterCAFile(), pki.MarshalCert(ca), 0o600),
		durable.Write(m.ClientCAFile(), []byte(m.Settings.ClientCA), 0o600),
		storePair(m.dir, pki.NodeClientFile, key, cert),
	); err != nil {
		return fmt.Errorf("keep what %s gave: %w", m.Server, err)
	}
	m.log.Info("joined the cluster", "server", m.Server, "node", m.nodeName)
	return m.storeState()
}

// fetchSettings is also patient with a server that has just started: it lets nobody in before its roles are in place,
// and publishes the settings after that. There is nothing one could watch before one may read.
func fetchSettings(ctx context.Context, client kubernetes.Interface) (Settings, error) {
	var found *corev1.ConfigMap
	var last error
	err := wait.PollUntilContextTimeout(ctx, time.Second, starting, true, func(ctx context.Context) (bool, error) {
		found, last = client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, ConfigMapName, metav1.GetOptions{})
		if apierrors.IsNotFound(last) || apierrors.IsForbidden(last) {
			return false, nil
		}
		return true, last
	})
	switch {
	case apierrors.IsNotFound(last):
		return Settings{}, errors.New("the server has not published the cluster's settings yet: try again when it is ready")
	case last != nil:
		return Settings{}, explain(last)
	case err != nil:
		return Settings{}, err
	}
	settings, err := readSettings(found.Data)
	if err != nil {
		return Settings{}, fmt.Errorf("the cluster's settings (ConfigMap kube-system/%s) are damaged: %w", ConfigMapName, err)
	}
	return settings, nil
}

// explain turns the API server's refusals into what the operator can do.
func explain(err error) error {
	switch {
	case apierrors.IsUnauthorized(err):
		return errors.New("the server refuses the token: it has expired or was revoked; make another with `knarr token create` there")
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the token does not let machines join as nodes; make another with `knarr token create` there (%w)", err)
	}
	return err
}

// unreachable says what to look at when there was no answer.
func unreachable(server string, err error) error {
	host := strings.TrimPrefix(server, "https://")
	return fmt.Errorf("no answer from %s (%w): check that the server runs, the address is right and no firewall closes the port", host, err)
}
