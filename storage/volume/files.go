package volume

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// setUpFiles makes a volume of files: what it should hold is computed first, then written as a whole.
func (m *Manager) setUpFiles(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (string, error) {
	folder := m.path(pod.UID, plugin(v), v.Name)
	if v.Projected != nil {
		for i := range v.Projected.Sources {
			if source := v.Projected.Sources[i].PodCertificate; source != nil {
				m.certificates.adopt(pod.UID, source, folder)
			}
		}
	}
	want, err := m.content(ctx, pod, v, false)
	if err != nil {
		// A restart of this node while the API is away must not fail pods whose files are there already.
		if _, missing := os.Lstat(filepath.Join(folder, dataLink)); missing == nil && unreachable(err) {
			m.config.Log.Warn("keep the files there are: the API does not answer", "pod", pod.Namespace+"/"+pod.Name, "volume", v.Name, "err", err)
			return folder, nil
		}
		return "", err
	}
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return "", fmt.Errorf("make %s: %w", folder, err)
	}
	if inMemory(v) {
		if err := mountMemory(folder, 0); err != nil {
			return "", err
		}
	}
	if err := own(folder, 0o777|os.ModeSticky, fsGroup(pod)); err != nil {
		return "", err
	}
	if _, err := writeFiles(folder, want); err != nil {
		return "", err
	}
	return folder, nil
}

// plugin is the folder name of the volume's kind.
func plugin(v *corev1.Volume) string {
	switch {
	case v.ConfigMap != nil:
		return "configmap"
	case v.Secret != nil:
		return "secret"
	case v.DownwardAPI != nil:
		return "downward-api"
	}
	return "projected"
}

// inMemory: secrets and tokens must not reach a disk.
func inMemory(v *corev1.Volume) bool { return v.Secret != nil || v.Projected != nil }

// showsMetadata: does the volume hold what the pod's own labels and annotations say?
func showsMetadata(v *corev1.Volume) bool {
	if v.Projected == nil {
		return v.DownwardAPI != nil
	}
	return slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.DownwardAPI != nil })
}

// content computes what a volume of files should hold. With aged, objects read within the last minute and tokens
// still young enough are good enough.
func (m *Manager) content(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, aged bool) (files, error) {
	var out files
	var err error
	switch {
	case v.ConfigMap != nil:
		source := v.ConfigMap
		out, err = m.fromObject(ctx, objectRef{"configmap", pod.Namespace, source.Name}, source.Items, source.DefaultMode, source.Optional, aged)
	case v.Secret != nil:
		source := v.Secret
		out, err = m.fromObject(ctx, objectRef{"secret", pod.Namespace, source.SecretName}, source.Items, source.DefaultMode, source.Optional, aged)
	case v.DownwardAPI != nil:
		out, err = downward(pod, v.DownwardAPI.Items, v.DownwardAPI.DefaultMode, m.config.Allocatable())
	default:
		out, err = m.projected(ctx, pod, v.Projected, aged)
	}
	if err != nil {
		return nil, err
	}
	return out.owned(fsGroup(pod)), nil
}

func (m *Manager) projected(ctx context.Context, pod *corev1.Pod, projected *corev1.ProjectedVolumeSource, aged bool) (files, error) {
	out := files{}
	for i := range projected.Sources {
		part, err := m.projection(ctx, pod, &projected.Sources[i], projected.DefaultMode, aged)
		if err != nil {
			return nil, err
		}
		out.merge(part)
	}
	return out, nil
}

func (m *Manager) projection(ctx context.Context, pod *corev1.Pod, source *corev1.VolumeProjection, mode *int32, aged bool) (files, error) {
	switch {
	case source.ConfigMap != nil:
		return m.fromObject(ctx, objectRef{"configmap", pod.Namespace, source.ConfigMap.Name}, source.ConfigMap.Items, mode, source.ConfigMap.Optional, aged)
	case source.Secret != nil:
		return m.fromObject(ctx, objectRef{"secret", pod.Namespace, source.Secret.Name}, source.Secret.Items, mode, source.Secret.Optional, aged)
	case source.DownwardAPI != nil:
		return downward(pod, source.DownwardAPI.Items, mode, m.config.Allocatable())
	case source.ServiceAccountToken != nil:
		token, err := m.tokens.get(ctx, pod, source.ServiceAccountToken)
		if err != nil {
			return nil, err
		}
		return files{filepath.Clean(source.ServiceAccountToken.Path): tokenFile(token, pod, mode)}, nil
	case source.ClusterTrustBundle != nil:
		return m.trustBundle(ctx, source.ClusterTrustBundle, mode)
	case source.PodCertificate != nil:
		held, err := m.certificates.get(ctx, pod, source.PodCertificate, !aged)
		if err != nil {
			return nil, err
		}
		return certificateFiles(held, source.PodCertificate, pod, mode), nil
	}
	return nil, errors.New("this kind of projection is not supported on this node: use configMap, secret, downwardAPI, " +
		"serviceAccountToken, clusterTrustBundle or podCertificate")
}

// tokenFile is readable by the pod's one user or its fsGroup; only a pod with neither needs it open to all.
func tokenFile(token string, pod *corev1.Pod, mode *int32) file {
	out := file{data: []byte(token), mode: defaultMode, uid: -1, gid: -1}
	if mode != nil {
		out.mode = uint32(*mode)
	}
	user := onlyUser(pod)
	if user != nil || fsGroup(pod) != nil {
		out.mode = 0o600
	}
	if user != nil {
		out.uid = int(*user)
	}
	return out
}

// fromObject takes files from a ConfigMap or a Secret.
func (m *Manager) fromObject(ctx context.Context, ref objectRef, items []corev1.KeyToPath, mode *int32, optional *bool, aged bool) (files, error) {
	mayMiss := optional != nil && *optional
	data, err := m.objects.get(ctx, ref, aged)
	if apierrors.IsNotFound(err) {
		if mayMiss {
			return files{}, nil
		}
		return nil, fmt.Errorf("%s %q %w: create it in namespace %q, or make the volume's reference optional", ref.kind, ref.name, errMissing, ref.namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %q: %w", ref.kind, ref.name, err)
	}
	return keyed(ref.kind, data, items, mode, mayMiss)
}

// trustBundle writes the certificates of one bundle, or of all bundles of a signer that match, each once.
func (m *Manager) trustBundle(ctx context.Context, source *corev1.ClusterTrustBundleProjection, mode *int32) (files, error) {
	var bundles []string
	client := m.config.Client.CertificatesV1().ClusterTrustBundles()
	mayMiss := source.Optional != nil && *source.Optional
	switch {
	case source.Name != nil:
		bundle, err := client.Get(ctx, *source.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) && mayMiss: // the file is there all the same, and trusts nobody
		case apierrors.IsNotFound(err):
			return nil, fmt.Errorf("clustertrustbundle %q not found: create it, or make the projection optional", *source.Name)
		case err != nil:
			return nil, fmt.Errorf("read clustertrustbundle %q: %w", *source.Name, err)
		default:
			bundles = append(bundles, bundle.Spec.TrustBundle)
		}
	case source.SignerName != nil:
		selector, err := metav1.LabelSelectorAsSelector(source.LabelSelector)
		if err != nil {
			return nil, fmt.Errorf("read the label selector of the clustertrustbundle projection: %w", err)
		}
		list, err := client.List(ctx, metav1.ListOptions{FieldSelector: "spec.signerName=" + *source.SignerName})
		if err != nil {
			return nil, fmt.Errorf("list clustertrustbundles of signer %q: %w", *source.SignerName, err)
		}
		for i := range list.Items {
			if selector.Matches(labels.Set(list.Items[i].Labels)) {
				bundles = append(bundles, list.Items[i].Spec.TrustBundle)
			}
		}
		if len(bundles) == 0 && !mayMiss {
			return nil, fmt.Errorf("no clustertrustbundle of signer %q matches the selector: create one, or make the projection optional", *source.SignerName)
		}
	}
	content := file{data: anchors(bundles), mode: defaultMode, uid: -1, gid: -1}
	if mode != nil {
		content.mode = uint32(*mode)
	}
	return files{filepath.Clean(source.Path): content}, nil
}

// anchors joins bundles into one PEM text: each certificate once, in a stable order, comments dropped.
func anchors(bundles []string) []byte {
	var blocks []string
	for _, bundle := range bundles {
		rest := []byte(bundle)
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if _, err := x509.ParseCertificate(block.Bytes); err == nil {
				blocks = append(blocks, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})))
			}
		}
	}
	slices.Sort(blocks)
	return []byte(strings.Join(slices.Compact(blocks), ""))
}

// errMissing: the object is not there. Users delete what running pods refer to; that is no news for the log.
var errMissing = errors.New("not found")

// unreachable tells an API that gave no answer from one that said no.
func unreachable(err error) bool {
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return apierrors.IsServerTimeout(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err) || apierrors.IsTimeout(err)
	}
	var connection interface{ Timeout() bool } // every failed dial, and a context's deadline
	return errors.As(err, &connection) || errors.Is(err, context.Canceled)
}
