package apiserver_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/appliance/apiserver/persistence"
)

// TestEveryAPIServerIsAnEndpoint plays a second server beside the one of the package.
func TestEveryAPIServerIsAnEndpoint(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	connection, err := persistence.Connect(persistence.Endpoints{URLs: []string{"unix://" + filepath.Join(folder, "etcd.sock")}})
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	second := connection.Presence("192.0.2.7")
	expectEndpoints(t, "192.0.2.1")
	for range 2 { // to say it again changes nothing
		if err := second.Announce(ctx); err != nil {
			t.Fatal(err)
		}
	}
	expectEndpoints(t, "192.0.2.1", "192.0.2.7")
	if err := second.Withdraw(ctx); err != nil {
		t.Fatal(err)
	}
	expectEndpoints(t, "192.0.2.1")
}

// expectEndpoints waits for both kinds that say where the API is.
func expectEndpoints(t *testing.T, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := admin(t)
	slices.Sort(want)
	only := metav1.ListOptions{FieldSelector: "metadata.name=kubernetes"}
	old, err := client.CoreV1().Endpoints(metav1.NamespaceDefault).Watch(ctx, only)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Stop()
	slice, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Watch(ctx, only)
	if err != nil {
		t.Fatal(err)
	}
	defer slice.Stop()
	for {
		have, err := client.CoreV1().Endpoints(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got, gotNew []string
		for _, subset := range have.Subsets {
			for _, address := range subset.Addresses {
				got = append(got, address.IP)
			}
		}
		for _, endpoint := range fresh.Endpoints {
			gotNew = append(gotNew, endpoint.Addresses...)
		}
		if slices.Equal(got, want) && slices.Equal(gotNew, want) {
			return
		}
		select {
		case <-old.ResultChan():
		case <-slice.ResultChan():
		}
		if ctx.Err() != nil {
			t.Fatal(fmt.Errorf("endpoints %v and %v, want %v: %w", got, gotNew, want, ctx.Err()))
		}
	}
}
