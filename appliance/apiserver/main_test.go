package apiserver_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"knarr.dev/knarr/appliance/apiserver/servertest"
)

// server is shared by the tests of the package: a start costs more than most of them. Folder is where it lives.
var (
	server *servertest.Server
	folder string
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	klog.SetLogger(logr.Discard()) // the library is chatty, and at a stop alarmed
	dir, err := os.MkdirTemp("", "knarr-apiserver-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	folder = dir
	if server, err = servertest.Start(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := addAccount(metav1.NamespaceDefault); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// addAccount does what a controller does in a cluster; without it no pod is admitted.
func addAccount(namespace string) error {
	client, err := kubernetes.NewForConfig(server.Admin())
	if err != nil {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	_, err = client.CoreV1().ServiceAccounts(namespace).Create(context.Background(), account, metav1.CreateOptions{})
	return err
}

func admin(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(server.Admin())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func anything(t *testing.T) *dynamic.DynamicClient {
	t.Helper()
	client, err := dynamic.NewForConfig(server.Admin())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// get reads a path as the administrator.
func get(t *testing.T, path string, accept string) []byte {
	t.Helper()
	body, err := admin(t).RESTClient().Get().AbsPath(path).SetHeader("Accept", accept).DoRaw(context.Background())
	if err != nil {
		t.Fatalf("get %s: %v", path, err)
	}
	return body
}
