package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"knarr.dev/knarr/bootstrap/durable"
)

// WriteKubeconfig makes path a self-contained kubeconfig with which client reaches server. A file that already
// says so is left alone, so that its time tells when it changed.
func WriteKubeconfig(path, server string, clusterCA, client *Pair) error {
	const name = "knarr"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: clusterCA.CertPEM}
	config.AuthInfos[client.Cert.Subject.CommonName] = &clientcmdapi.AuthInfo{
		ClientCertificateData: client.CertPEM,
		ClientKeyData:         client.KeyPEM,
	}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: client.Cert.Subject.CommonName}
	config.CurrentContext = name
	content, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encode kubeconfig %s: %w", path, err)
	}
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make folder for kubeconfig: %w", err)
	}
	return durable.Replace(path, content, 0o600)
}

// RESTConfig is how a component reaches the API server as client. It names files rather than holding their
// content, so that client-go follows a renewal.
func RESTConfig(server, clusterCAFile, clientCertFile, clientKeyFile string) *rest.Config {
	return &rest.Config{
		Host: server,
		QPS:  -1, // the API server's flow control decides; a limit here would only delay pods
		ContentConfig: rest.ContentConfig{
			ContentType:        runtime.ContentTypeProtobuf,
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
		},
		TLSClientConfig: rest.TLSClientConfig{
			CAFile:   clusterCAFile,
			CertFile: clientCertFile,
			KeyFile:  clientKeyFile,
		},
	}
}
