package nodettl

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

func TestJudge(t *testing.T) {
	tests := map[string]struct {
		at, nodes   int
		wantSeconds int
	}{
		"no node at all":                              {nodes: 0, wantSeconds: 0},
		"a small cluster asks each time":              {nodes: 100, wantSeconds: 0},
		"one node more does not":                      {nodes: 101, wantSeconds: 15},
		"one that has shrunk a little keeps its time": {at: 1, nodes: 95, wantSeconds: 15},
		"one that has shrunk more does not":           {at: 1, nodes: 89, wantSeconds: 0},
		"growth passes over steps":                    {nodes: 1500, wantSeconds: 60},
		"so does shrinking":                           {at: 5, nodes: 3, wantSeconds: 0},
		"a large cluster":                             {nodes: 5000, wantSeconds: 300},
		"the largest":                                 {nodes: 50000, wantSeconds: 600},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			at := judge(tc.at, tc.nodes)
			if got := steps[at].seconds; got != tc.wantSeconds {
				t.Errorf("judge(%d, %d) is %d seconds, want %d", tc.at, tc.nodes, got, tc.wantSeconds)
			}
			if again := judge(at, tc.nodes); again != at {
				t.Errorf("a second look moves on from step %d to %d", at, again)
			}
		})
	}
}

func TestEveryNodeIsTold(t *testing.T) {
	writes := 0
	c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, options ...client.PatchOption) error {
			writes++
			return c.Patch(ctx, o, p, options...)
		},
	}).Build()
	r := &Reconciler{client: c}
	grow := func(from, to int, told string) {
		t.Helper()
		for i := from; i < to; i++ {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i), Annotations: map[string]string{"mine": "stays"}}}
			if told != "" {
				node.Annotations[annotation] = told
			}
			if err := c.Create(t.Context(), node); err != nil {
				t.Fatal(err)
			}
		}
	}
	pass := func(wantWrites int, want string) {
		t.Helper()
		writes = 0
		if _, err := r.Reconcile(t.Context(), everyNode); err != nil {
			t.Fatal(err)
		}
		if writes != wantWrites {
			t.Errorf("%d writes, want %d", writes, wantWrites)
		}
		var nodes corev1.NodeList
		if err := c.List(t.Context(), &nodes); err != nil {
			t.Fatal(err)
		}
		for i := range nodes.Items {
			if got := nodes.Items[i].Annotations; got[annotation] != want || got["mine"] != "stays" {
				t.Fatalf("annotations of %s are %v, want %s", nodes.Items[i].Name, got, want)
			}
		}
	}
	grow(0, 2, "")
	pass(2, "0")
	pass(0, "0")
	grow(2, 101, "15") // by who led before
	pass(2, "15")
	pass(0, "15")
}
