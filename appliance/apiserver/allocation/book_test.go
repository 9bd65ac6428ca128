package allocation

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"

	"knarr.dev/knarr/appliance/apiserver/scheme"
	"knarr.dev/knarr/appliance/datastore"
	"knarr.dev/knarr/test/certs"
)

// library is books on one real datastore; services are what the test says.
type library struct {
	root     string
	services map[owner]*corev1.Service
}

// open starts a datastore for the books of a test.
func open(t *testing.T) storagebackend.ConfigForResource {
	t.Helper()
	dir := t.TempDir()
	cert, key, ca := certs.Write(t, dir, "127.0.0.1")
	store := datastore.New(datastore.Config{
		Name: "one", Dir: filepath.Join(dir, "etcd"), Socket: filepath.Join(dir, "etcd.sock"),
		PeerURL: "https://" + certs.FreeAddress(t), Peer: datastore.Certificate{CertFile: cert, KeyFile: key, CAFile: ca},
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- store.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("the datastore ended while starting: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	config := storagebackend.NewDefaultConfig("/registry", scheme.Codecs.LegacyCodec(networkingv1.SchemeGroupVersion))
	config.Transport.ServerList = []string{store.Endpoint()}
	return *config.ForResource(schema.GroupResource{Group: networkingv1.GroupName, Resource: "ipaddresses"})
}

func (l *library) book(t *testing.T, config storagebackend.ConfigForResource) *book {
	t.Helper()
	store, destroy, err := factory.Create(config, func() runtime.Object { return &networkingv1.IPAddress{} }, func() runtime.Object { return &networkingv1.IPAddressList{} }, l.root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(destroy)
	return &book{
		store: store, root: l.root,
		key: func(name string) (string, error) { return l.root + "/" + name, nil },
		services: func(_ context.Context, namespace, name string) (*corev1.Service, error) {
			if svc := l.services[owner{namespace, name}]; svc != nil {
				return svc, nil
			}
			return nil, apierrors.NewNotFound(corev1.Resource("services"), name)
		},
	}
}

func (l *library) add(name string, addresses ...string) owner {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.ServiceSpec{ClusterIPs: addresses}}
	l.services[ownerOf(svc)] = svc
	return ownerOf(svc)
}

func reservations(t *testing.T, b *book) []string {
	t.Helper()
	taken, err := b.taken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range taken {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// TestBook reserves, gives back and repairs on a real datastore. Time is what a case says it is.
func TestBook(t *testing.T) {
	config := open(t)
	now := time.Now()
	later := now.Add(pending + time.Minute)
	tests := map[string]struct {
		run  func(t *testing.T, l *library, b *book)
		want []string // reserved at the end
	}{
		"a name is given away once": {
			run: func(t *testing.T, l *library, b *book) {
				first, second := &transaction{owner: l.add("web", "10.0.0.1")}, &transaction{owner: l.add("db")}
				for _, tc := range []struct {
					by   *transaction
					free bool
				}{{first, true}, {second, false}, {first, false}} {
					if free, err := b.reserve(t.Context(), tc.by, "10.0.0.1"); err != nil || free != tc.free {
						t.Errorf("reserve for %s = %v, %v; want %v", tc.by.owner, free, err, tc.free)
					}
				}
			},
			want: []string{"10.0.0.1"},
		},
		"trying reserves nothing": {
			run: func(t *testing.T, _ *library, b *book) {
				if free, err := b.reserve(t.Context(), &transaction{dry: true}, "10.0.0.1"); err != nil || !free {
					t.Errorf("reserve = %v, %v", free, err)
				}
			},
		},
		"a request that fails gives back what it took": {
			run: func(t *testing.T, l *library, b *book) {
				first, second := &transaction{owner: l.add("web")}, &transaction{owner: l.add("db", "10.0.0.2")}
				for name, by := range map[string]*transaction{"10.0.0.1": first, "10.0.0.2": second} {
					if _, err := b.reserve(t.Context(), by, name); err != nil {
						t.Fatal(err)
					}
				}
				first.rollback(t.Context())
			},
			want: []string{"10.0.0.2"},
		},
		"nobody gives back what is another's": {
			run: func(t *testing.T, l *library, b *book) {
				if _, err := b.reserve(t.Context(), &transaction{owner: l.add("web", "10.0.0.1")}, "10.0.0.1"); err != nil {
					t.Fatal(err)
				}
				if err := b.giveBack(t.Context(), "10.0.0.1", owner{"shop", "db"}); err != nil {
					t.Error(err)
				}
			},
			want: []string{"10.0.0.1"},
		},
		"the last name of a range is found, and then there is none": {
			run: func(t *testing.T, l *library, b *book) {
				range3 := portRange{First: 30000, Last: 30002}
				var got []string
				for range 3 {
					name, err := b.reserveAny(t.Context(), &transaction{owner: l.add("web")}, range3)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, name)
				}
				slices.Sort(got)
				if diff := cmp.Diff([]string{"30000", "30001", "30002"}, got); diff != "" {
					t.Errorf("names (-want +got):\n%s", diff)
				}
				if name, err := b.reserveAny(t.Context(), &transaction{owner: l.add("web")}, range3); err != errFull {
					t.Errorf("a fourth of three: %q, %v", name, err)
				}
			},
			want: []string{"30000", "30001", "30002"},
		},
		"what a crash left over is given back, but not while its service may still come": {
			run: func(t *testing.T, l *library, b *book) {
				for name, by := range map[string]owner{"10.0.0.1": {"shop", "never-came"}, "10.0.0.2": l.add("changed", "10.0.0.9"), "10.0.0.3": l.add("web", "10.0.0.3")} {
					if _, err := b.reserve(t.Context(), &transaction{owner: by}, name); err != nil {
						t.Fatal(err)
					}
				}
				if err := b.sweep(t.Context(), now); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([]string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, reservations(t, b)); diff != "" {
					t.Errorf("while they were young (-want +got):\n%s", diff)
				}
				if err := b.sweep(t.Context(), later); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{"10.0.0.3"},
		},
		"what a service has is reserved again": {
			run: func(t *testing.T, l *library, b *book) {
				web := l.add("web", "10.0.0.1")
				for range 2 { // the second time there is nothing to do
					if err := b.ensure(t.Context(), "10.0.0.1", web); err != nil {
						t.Fatal(err)
					}
				}
				if free, err := b.reserve(t.Context(), &transaction{owner: l.add("db")}, "10.0.0.1"); err != nil || free {
					t.Errorf("another may have it: %v, %v", free, err)
				}
			},
			want: []string{"10.0.0.1"},
		},
		"of two services with the same the first keeps it": {
			run: func(t *testing.T, l *library, b *book) {
				for _, o := range []owner{l.add("web", "10.0.0.1"), l.add("db", "10.0.0.1")} {
					if err := b.ensure(t.Context(), "10.0.0.1", o); err != nil {
						t.Fatal(err)
					}
				}
				list, err := b.all(t.Context())
				if err != nil || len(list) != 1 || list[0].Spec.ParentRef.Name != "web" {
					t.Errorf("reservations %v, %v", list, err)
				}
			},
			want: []string{"10.0.0.1"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			l := &library{root: "/" + t.Name(), services: map[owner]*corev1.Service{}}
			b := l.book(t, config)
			tc.run(t, l, b)
			if diff := cmp.Diff(tc.want, reservations(t, b)); diff != "" {
				t.Errorf("reserved (-want +got):\n%s", diff)
			}
		})
	}
}
