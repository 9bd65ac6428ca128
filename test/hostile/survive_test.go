package hostile_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// memoryBack is how far above its size before an attack the server may stay, in MiB: buffers of a runtime that
// returns memory by and by.
const memoryBack = 150

// survives runs an attack and sees that the server answers meanwhile and afterwards, and gives memory back.
func survives(t *testing.T, attack func()) {
	t.Helper()
	server.answers(t)
	before := server.pss(t)
	stop, watched := make(chan struct{}), make(chan []time.Duration, 1)
	var most float64
	go func() {
		var took []time.Duration
		for {
			select {
			case <-stop:
				watched <- took
				return
			case <-time.After(50 * time.Millisecond): // how often a client looks in
			}
			took = append(took, server.answers(t))
			most = max(most, server.pss(t))
		}
	}()
	attack()
	close(stop)
	took := <-watched
	after := server.pss(t)
	for deadline := time.Now().Add(patience); after > before+memoryBack && time.Now().Before(deadline); after = server.pss(t) {
		server.answers(t)
	}
	if len(took) == 0 {
		took = append(took, server.answers(t))
	}
	slices.Sort(took)
	t.Logf("PSS %.0f MiB before, %.0f at most, %.0f after; %d answers to others meanwhile: median %s, slowest %s",
		before, most, after, len(took), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	if after > before+memoryBack {
		t.Errorf("memory does not come back: %.0f MiB before, %.0f MiB %s after", before, after, patience)
	}
}

// post sends a body and returns the status; a server may also hang up on what is too long.
func post(t *testing.T, client *http.Client, path, media string, content []byte) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+path, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", media)
	response, err := client.Do(request)
	if err != nil {
		t.Errorf("no answer to %d bytes of %s: %v", len(content), media, err)
		return 0
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(response.Body)
	if response.StatusCode >= 500 {
		t.Errorf("%d bytes of %s: %s: %s", len(content), media, response.Status, tail(string(answer), 500))
	}
	return response.StatusCode
}

const mebi = 1 << 20

func TestBodiesThatAreTooLongOrTooDeep(t *testing.T) {
	const levels = 100_000
	deepJSON := func(open, shut string) string {
		return strings.Repeat(open, levels) + "1" + strings.Repeat(shut, levels)
	}
	revision := func(data string) []byte {
		return []byte(`{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{"name":"long"},"revision":1,"data":` + data + `}`)
	}
	definition := func(open, shut string) []byte {
		return []byte(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"deeps.example.com"},"spec":{"group":"example.com","scope":"Cluster",` +
			`"names":{"plural":"deeps","kind":"Deep"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":` + deepJSON(open, shut) + `}}]}}`)
	}
	const revisions, definitions, maps = "/apis/apps/v1/namespaces/default/controllerrevisions", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/api/v1/namespaces/default/configmaps"
	tests := map[string]struct {
		path, media string
		content     []byte
		want        []int
	}{
		"3 MB of one string":                {revisions, "application/json", revision(`{"a":"` + strings.Repeat("x", 3*mebi-200) + `"}`), []int{413}},
		"2 MB are more than the store has":  {revisions, "application/json", revision(`{"a":"` + strings.Repeat("x", 2*mebi) + `"}`), []int{413}},
		"more than a request may have":      {maps, "application/json", revision(`"` + strings.Repeat("x", 3*mebi) + `"`), []int{413}},
		"3 MB of spaces":                    {maps, "application/json", bytes.Repeat([]byte(" "), 3*mebi), []int{400, 422}},
		"100,000 arrays in JSON":            {revisions, "application/json", revision(deepJSON("[", "]")), []int{400}},
		"100,000 objects in JSON":           {revisions, "application/json", revision(deepJSON(`{"a":`, "}")), []int{400}},
		"100,000 brackets that never close": {maps, "application/json", bytes.Repeat([]byte("["), levels), []int{400}},
		"100,000 arrays in YAML":            {revisions, "application/yaml", revision(deepJSON("[", "]")), []int{400}},
		"100,000 objects in YAML":           {revisions, "application/yaml", revision(deepJSON(`{"a": `, "}")), []int{400}},
		"aliases that grow in YAML":         {revisions, "application/yaml", growingAliases(), []int{400}},
		"a recursive kind in JSON":          {definitions, "application/json", definition(`{"not":`, "}"), []int{400}},
		"a recursive kind in protobuf":      {definitions, "application/vnd.kubernetes.protobuf", deepDefinition(levels), []int{400, 422}},
		"3 MB of a recursive kind":          {definitions, "application/vnd.kubernetes.protobuf", deepDefinition(400_000), []int{400, 422}},
		"the same as options of a deletion": {maps, "application/json", []byte(`{"kind":"DeleteOptions","apiVersion":"v1","preconditions":` + deepJSON(`{"a":`, "}") + `}`), []int{400}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			survives(t, func() {
				var group sync.WaitGroup
				for range 8 {
					group.Go(func() {
						if got := post(t, server.http, tc.path, tc.media, tc.content); !slices.Contains(tc.want, got) {
							t.Errorf("status %d, want one of %v", got, tc.want)
						}
					})
				}
				group.Wait()
			})
		})
	}
}

// growingAliases is a few hundred bytes that stand for billions.
func growingAliases() []byte {
	var b strings.Builder
	b.WriteString("apiVersion: apps/v1\nkind: ControllerRevision\nmetadata: {name: aliases}\nrevision: 1\ndata:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n")
	for i := range 12 {
		fmt.Fprintf(&b, "  a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), ", "))
	}
	return []byte(b.String())
}

// deepDefinition is a CustomResourceDefinition whose schema is a "not" of a "not" and so on, as protobuf: there, a
// level costs five bytes and the parser a call.
func deepDefinition(levels int) []byte {
	// Numbers of fields: see generated.proto of apiextensions.k8s.io/v1.
	const not, openAPIV3Schema, schemaOfVersion, versionsOfSpec, specOfDefinition, rawOfUnknown = 29, 1, 4, 7, 2, 2
	// From the inside out, backwards: each level needs the length of all below it.
	var reversed []byte
	reverse := func(field int) {
		var length, tag [binary.MaxVarintLen64]byte
		n, m := binary.PutUvarint(length[:], uint64(len(reversed))), binary.PutUvarint(tag[:], uint64(field)<<3|2)
		for i := range n {
			reversed = append(reversed, length[n-1-i])
		}
		for i := range m {
			reversed = append(reversed, tag[m-1-i])
		}
	}
	for range levels {
		reverse(not)
	}
	for _, field := range []int{openAPIV3Schema, schemaOfVersion, versionsOfSpec, specOfDefinition, rawOfUnknown} {
		reverse(field)
	}
	slices.Reverse(reversed)
	kind := "\x0a\x34\x0a\x17apiextensions.k8s.io/v1\x12\x18CustomResourceDefinition"
	kind = string([]byte{0x0a, byte(len(kind) - 2)}) + kind[2:]
	return append([]byte("k8s\x00"+kind), reversed...)
}

// TestSlowClients opens connections that never finish what they begin. Others are served, and the server ends them.
func TestSlowClients(t *testing.T) {
	const clients = 600
	survives(t, func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var group sync.WaitGroup
		slots := make(chan struct{}, 32)
		conns := make([]io.Closer, clients)
		begin := map[int]string{ // and no more than that
			0: "GET /api/v1/namespaces HTTP/1.1\r\nHost: a\r\nX-A: ",
			1: "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{",
			2: "",
		}
		for i := range clients {
			group.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				conn, err := server.dial(ctx)
				if err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				conns[i] = conn
				if _, err := conn.Write([]byte(begin[i%len(begin)])); err != nil {
					t.Errorf("begin a request: %v", err)
				}
			})
		}
		group.Wait()
		for range 20 {
			server.answers(t)
		}
		for _, conn := range conns {
			if conn != nil {
				_ = conn.Close()
			}
		}
	})
}

// TestIdleWatches holds many watches open on which nothing happens.
func TestIdleWatches(t *testing.T) {
	watches, each := number(t, "KNARR_HOSTILE_WATCHES", 1000), 90 // a connection has up to 100 requests at once
	survives(t, func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var opened, closed sync.WaitGroup
		slots := make(chan struct{}, 8)
		for first := 0; first < watches; first += each {
			client := server.connection(t)
			opened.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				for i := first; i < min(first+each, watches); i++ {
					path := fmt.Sprintf("/api/v1/configmaps?watch=true&resourceVersion=0&fieldSelector=metadata.name%%3Dnothing-%d", i)
					request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
					if err != nil {
						t.Error(err)
						return
					}
					response, err := client.Do(request)
					if err != nil || response.StatusCode != http.StatusOK {
						t.Errorf("watch %d: %v", i, err)
						return
					}
					closed.Go(func() {
						_, _ = io.Copy(io.Discard, response.Body)
						_ = response.Body.Close()
					})
				}
			})
		}
		opened.Wait()
		t.Logf("%d watches open: PSS %.0f MiB", watches, server.pss(t))
		for range 20 {
			server.answers(t)
		}
		cancel()
		closed.Wait()
	})
}
