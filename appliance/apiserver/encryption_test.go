package apiserver_test

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/storage/value"

	"knarr.dev/knarr/appliance/apiserver/atrest"
	"knarr.dev/knarr/appliance/apiserver/persistence"
	"knarr.dev/knarr/bootstrap/keyring"
)

// raw is the datastore behind the server's back.
func raw(t *testing.T) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints().URLs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// connection is another like the server's own.
func connection(t *testing.T) *persistence.Connection {
	t.Helper()
	connection, err := persistence.Connect(endpoints())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

func endpoints() persistence.Endpoints {
	return persistence.Endpoints{URLs: []string{"unix://" + filepath.Join(filepath.Dir(server.PKI.Dir), "etcd.sock")}}
}

func TestSecretsAreEncryptedInTheDatastore(t *testing.T) {
	const text = "correct horse battery staple"
	ctx := context.Background()
	secrets := admin(t).CoreV1().Secrets(metav1.NamespaceDefault)
	made, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "sealed-"}, StringData: map[string]string{"key": text}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = secrets.Delete(ctx, made.Name, metav1.DeleteOptions{}) })
	key := atrest.SecretsPrefix + "default/" + made.Name
	store := raw(t)
	stored := func() []byte {
		t.Helper()
		response, err := store.Get(ctx, key)
		if err != nil || len(response.Kvs) != 1 {
			t.Fatalf("read %s: %v, %v", key, response, err)
		}
		return response.Kvs[0].Value
	}
	sealed := stored()
	if bytes.Contains(sealed, []byte(text)) || !bytes.HasPrefix(sealed, []byte("k8s:enc:secretbox:v1:knarr-")) {
		t.Fatalf("stored as %.60q", sealed)
	}

	// What was written before there were keys is readable, and encrypted when it is written, though nothing changes in it.
	ring, err := keyring.Load(server.PKI.EncryptionKeysFile)
	if err != nil {
		t.Fatal(err)
	}
	own, err := atrest.Open(t.Context(), atrest.Files{Keys: server.PKI.EncryptionKeysFile})
	if err != nil {
		t.Fatal(err)
	}
	transformer := own.TransformerForResource(corev1.Resource("secrets"))
	plain, _, err := transformer.TransformFromStorage(ctx, sealed, value.DefaultContext(key))
	if err != nil || !bytes.Contains(plain, []byte(text)) {
		t.Fatalf("decrypt with the key of the file: %v", err)
	}
	if _, err := store.Put(ctx, key, string(plain)); err != nil {
		t.Fatal(err)
	}
	found, err := secrets.Get(ctx, made.Name, metav1.GetOptions{})
	if err != nil || string(found.Data["key"]) != text {
		t.Fatalf("read a Secret that is not encrypted: %v", err)
	}
	counts, err := connection(t).Survey(ctx, atrest.SecretsPrefix)
	if err != nil || counts[""] != 1 {
		t.Errorf("Survey() = %v, %v; want one that is not encrypted", counts, err)
	}
	if _, err := secrets.Update(ctx, found, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(stored(), []byte(text)) {
		t.Error("an update left the Secret readable in the datastore")
	}
	if name := ring.Names()[0]; !bytes.HasPrefix(stored(), []byte("k8s:enc:secretbox:v1:"+name+":")) {
		t.Errorf("not encrypted with %s", name)
	}
}

func TestResealing(t *testing.T) {
	const text = "tr0ub4dor&3"
	ctx := context.Background()
	store := raw(t)
	connection := connection(t)
	own, err := atrest.Open(t.Context(), atrest.Files{Keys: server.PKI.EncryptionKeysFile})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := store.Grant(ctx, 3600)
	if err != nil {
		t.Fatal(err)
	}
	const prefix = "/registry/resealing/"
	for _, name := range []string{"a", "b", "c"} {
		if _, err := store.Put(ctx, prefix+name, text, clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _, _ = store.Delete(context.Background(), prefix, clientv3.WithPrefix()) })
	transformer := own.TransformerForResource(corev1.Resource("secrets"))
	for pass, want := range []int{3, 0} {
		if n, err := connection.Reseal(ctx, prefix, transformer); n != want || err != nil {
			t.Errorf("pass %d: Reseal() = %d, %v; want %d", pass, n, err, want)
		}
	}
	response, err := store.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range response.Kvs {
		if strings.Contains(string(kv.Value), text) || kv.Lease != int64(lease.ID) {
			t.Errorf("%s: readable, or without its lease", kv.Key)
		}
		plain, stale, err := transformer.TransformFromStorage(ctx, kv.Value, value.DefaultContext(kv.Key))
		if string(plain) != text || stale || err != nil {
			t.Errorf("%s: %q, stale %v, %v", kv.Key, plain, stale, err)
		}
	}
}
