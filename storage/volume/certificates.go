package volume

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
)

// certificateKey is one certificate: a pod's, from one signer, under one of the files it is written to.
type certificateKey struct {
	pod          types.UID
	signer, file string
}

// heldCertificate is what a pod has, what was asked for to replace it, or both.
type heldCertificate struct {
	mu      sync.Mutex
	key     []byte // PEM, PKCS #8
	chain   []byte // PEM
	refresh time.Time
	ends    time.Time

	pending  string // name of the request that is not answered yet
	nextKey  []byte
	refused  error // the signer said no
	askAgain time.Time
}

// certificates asks signers for pods' certificates and remembers them until it is time for the next. The keys are made
// here, stay in memory and in the pod's volume, and are another with every certificate.
type certificates struct {
	client kubernetes.Interface
	node   string
	log    *slog.Logger
	now    func() time.Time

	mu   sync.Mutex
	held map[certificateKey]*heldCertificate
}

const (
	// patienceWithSigner bounds one wait for an answer. The volume is tried again after it, with the same request.
	patienceWithSigner = 20 * time.Second
	// afterNo is how long a signer that said no is left alone. It may be mended or told better, so it is asked again.
	afterNo = 10 * time.Minute
)

// entry finds or begins what is held for one projection of a pod.
func (c *certificates) entry(pod types.UID, source *corev1.PodCertificateProjection) *heldCertificate {
	key := certificateKey{pod: pod, signer: source.SignerName, file: source.CredentialBundlePath + "\x00" + source.KeyPath + "\x00" + source.CertificateChainPath}
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.held[key]
	if held == nil {
		held = &heldCertificate{}
		c.held[key] = held
	}
	return held
}

// get returns a certificate with enough life left. It waits for the first one if told to; the next ones are taken when
// they are there.
func (c *certificates) get(ctx context.Context, pod *corev1.Pod, source *corev1.PodCertificateProjection, wait bool) (*heldCertificate, error) {
	held := c.entry(pod.UID, source)
	held.mu.Lock()
	defer held.mu.Unlock()
	now := c.now()
	valid := held.chain != nil && now.Before(held.ends)
	if valid && now.Before(held.refresh) {
		return held, nil
	}
	if held.refused != nil && now.Before(held.askAgain) {
		if valid {
			return held, nil // the log has it
		}
		return nil, held.refused
	}
	err := c.renew(ctx, pod, source, held, wait && !valid)
	if err != nil && valid {
		c.log.Warn("keep a pod's certificate that is due: its signer gave no other", "pod", pod.Namespace+"/"+pod.Name, "signer", source.SignerName, "until", held.ends, "err", err)
		return held, nil
	}
	if err == nil && held.chain == nil {
		err = fmt.Errorf("signer %q has not answered PodCertificateRequest %s yet: check that it runs", source.SignerName, held.pending)
	}
	if err != nil {
		return nil, err
	}
	return held, nil
}

// adopt takes over the certificate that an earlier process of this node left in a volume, so that after a restart pods
// go on with theirs and no signer has to answer for all of them at once. When to ask for the next is not written there:
// the usual part of its life has to do.
func (c *certificates) adopt(pod types.UID, source *corev1.PodCertificateProjection, folder string) {
	held := c.entry(pod, source)
	held.mu.Lock()
	defer held.mu.Unlock()
	if held.chain != nil || held.pending != "" || held.refused != nil {
		return
	}
	key, chain := inVolume(source, folder)
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil || pair.Leaf == nil || !c.now().Before(pair.Leaf.NotAfter) {
		return // nothing there, or nothing of use
	}
	held.key, held.chain, held.ends = key, chain, pair.Leaf.NotAfter
	held.refresh = pair.Leaf.NotBefore.Add(pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore) * 8 / 10)
}

// inVolume is the key and the chain that a volume holds, nil where it does not.
func inVolume(source *corev1.PodCertificateProjection, folder string) (key, chain []byte) {
	at := func(path string) []byte {
		if path == "" {
			return nil
		}
		content, err := os.ReadFile(filepath.Join(folder, dataLink, filepath.Clean(path)))
		if err != nil {
			return nil // not written yet
		}
		return content
	}
	if source.CredentialBundlePath == "" {
		return at(source.KeyPath), at(source.CertificateChainPath)
	}
	bundle := at(source.CredentialBundlePath)
	block, rest := pem.Decode(bundle)
	if block == nil {
		return nil, nil
	}
	return bundle[:len(bundle)-len(rest)], rest
}

// renew asks, unless that was done before, and takes the answer.
func (c *certificates) renew(ctx context.Context, pod *corev1.Pod, source *corev1.PodCertificateProjection, held *heldCertificate, wait bool) error {
	requests := c.client.CertificatesV1().PodCertificateRequests(pod.Namespace)
	if held.pending == "" {
		request, key, err := c.compose(ctx, pod, source)
		if err != nil {
			return err
		}
		made, err := requests.Create(ctx, request, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("request a certificate from signer %q: %w", source.SignerName, err)
		}
		held.pending, held.nextKey = made.Name, key
	}
	answer, err := c.answer(ctx, requests, held.pending, wait)
	if err != nil {
		return fmt.Errorf("wait for signer %q: %w", source.SignerName, err)
	}
	if answer == nil {
		err := fmt.Errorf("signer %q did not answer PodCertificateRequest %s while it lived: check that it runs", source.SignerName, held.pending)
		held.pending, held.nextKey = "", nil // the next try asks anew
		return err
	}
	return held.take(answer, c.now())
}

// take learns from a request how it was answered, if it was.
func (h *heldCertificate) take(answer *certificatesv1.PodCertificateRequest, now time.Time) error {
	for _, condition := range answer.Status.Conditions {
		switch condition.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			h.key, h.chain = h.nextKey, onlyBlocks(answer.Status.CertificateChain)
			h.refresh, h.ends = answer.Status.BeginRefreshAt.Time, answer.Status.NotAfter.Time
			h.pending, h.nextKey, h.refused = "", nil, nil
		case certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
			h.pending, h.nextKey = "", nil
			h.askAgain = now.Add(afterNo)
			h.refused = fmt.Errorf("signer %q answered PodCertificateRequest %s with %s: %s: %s; mend the signer, or make the pod anew as it wants it",
				answer.Spec.SignerName, answer.Name, condition.Type, condition.Reason, condition.Message)
			return h.refused
		}
	}
	return nil
}

// answer is the request as it is, after waiting for the signer if told to; nil when it is gone.
func (c *certificates) answer(ctx context.Context, requests certificatesclient.PodCertificateRequestInterface, name string, wait bool) (*certificatesv1.PodCertificateRequest, error) {
	// A node sees its own requests only, and says so.
	own := metav1.ListOptions{FieldSelector: fields.Set{"metadata.name": name, "spec.nodeName": c.node}.String()}
	list, err := requests.List(ctx, own)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list.Items, func(r certificatesv1.PodCertificateRequest) bool { return r.Name == name })
	if i < 0 {
		return nil, nil
	}
	request := &list.Items[i]
	if !wait || len(request.Status.Conditions) > 0 {
		return request, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patienceWithSigner)
	defer cancel()
	own.ResourceVersion = list.ResourceVersion
	watch, err := requests.Watch(ctx, own)
	if err != nil {
		return nil, err
	}
	defer watch.Stop()
	for event := range watch.ResultChan() {
		if newer, ok := event.Object.(*certificatesv1.PodCertificateRequest); ok && newer.Name == name && len(newer.Status.Conditions) > 0 {
			return newer, nil
		}
	}
	return request, nil
}

// compose makes a key and the request for its certificate.
func (c *certificates) compose(ctx context.Context, pod *corev1.Pod, source *corev1.PodCertificateProjection) (*certificatesv1.PodCertificateRequest, []byte, error) {
	account, err := c.client.CoreV1().ServiceAccounts(pod.Namespace).Get(ctx, pod.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("read serviceaccount %q: %w", pod.Spec.ServiceAccountName, err)
	}
	node, err := c.client.CoreV1().Nodes().Get(ctx, c.node, metav1.GetOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("read node %q: %w", c.node, err)
	}
	key, err := newKey(source.KeyType)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key of type %q: %w", source.KeyType, err)
	}
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate request: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode a pod's key: %w", err)
	}
	return &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: "req-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
		},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: source.SignerName,
			PodName:    pod.Name, PodUID: pod.UID,
			ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
			NodeName: types.NodeName(node.Name), NodeUID: node.UID,
			MaxExpirationSeconds:      source.MaxExpirationSeconds,
			StubPKCS10Request:         stub,
			UnverifiedUserAnnotations: source.UserAnnotations,
		},
	}, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "RSA3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("this node does not know it: use ECDSAP256")
}

// onlyBlocks drops what signers may write between certificates.
func onlyBlocks(chain string) []byte {
	var out []byte
	for rest := []byte(chain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
}

// certificateFiles are the files a projection asks for. They are as private as a token.
func certificateFiles(held *heldCertificate, source *corev1.PodCertificateProjection, pod *corev1.Pod, mode *int32) files {
	held.mu.Lock()
	defer held.mu.Unlock()
	out := files{}
	for path, content := range map[string]string{
		source.CredentialBundlePath: string(held.key) + string(held.chain),
		source.KeyPath:              string(held.key),
		source.CertificateChainPath: string(held.chain),
	} {
		if path != "" {
			out[filepath.Clean(path)] = tokenFile(content, pod, mode)
		}
	}
	return out
}

// forget drops a pod's certificates.
func (c *certificates) forget(pod types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.held {
		if key.pod == pod {
			delete(c.held, key)
		}
	}
}
