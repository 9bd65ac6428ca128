package declared_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/declared"
	"knarr.dev/knarr/appliance/apiserver/scheme"
	"knarr.dev/knarr/appliance/apiserver/table"
)

func TestCheck(t *testing.T) {
	long := make([]resourcev1.DeviceRequest, 33)
	for i := range long {
		long[i].Name = "r" + strings.Repeat("x", i)
	}
	claim := func(requests []resourcev1.DeviceRequest) *resourcev1.ResourceClaim {
		return &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests}}}
	}
	tests := map[string]struct {
		object, old runtime.Object
		found       field.ErrorList
		want        string // a part of one message; "": nothing is wrong
		count       int    // of errors, if it matters
	}{
		"nothing is wrong":                     {object: &corev1.ConfigMap{}},
		"a list is too long":                   {object: claim(long), want: "spec.devices.requests: Too many: 33"},
		"what was wrong before may stay":       {object: claim(long), old: claim(long)},
		"what is said already is not repeated": {object: claim(long), found: field.ErrorList{field.TooMany(field.NewPath("spec", "devices", "requests"), 33, 32)}, want: "Too many", count: 1},
		"a number is too small":                {object: &autoscalingv2.HorizontalPodAutoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: ptr.To[int32](-1), MaxReplicas: 1}}, want: "spec.minReplicas: Invalid value"},
		"a field that stays":                   {object: &storagev1.StorageClass{Provisioner: "b"}, old: &storagev1.StorageClass{Provisioner: "a"}, want: "provisioner: Invalid value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			errs := declared.Check(context.Background(), scheme.Scheme, tc.object, tc.old, tc.found)
			if tc.want == "" && len(errs) > 0 || tc.want != "" && !strings.Contains(fmt.Sprint(errs), tc.want) || tc.count > 0 && len(errs) != tc.count {
				t.Errorf("errors = %v, want %q", errs, tc.want)
			}
		})
	}
}

// TestEveryKindIsChecked finds kinds whose types declare rules nobody registered, and rules that can't be evaluated.
func TestEveryKindIsChecked(t *testing.T) {
	// Their types declare nothing.
	silent := map[string]bool{
		"bindings": true, "componentstatuses": true, "tokenreviews.authentication.k8s.io": true, "selfsubjectreviews.authentication.k8s.io": true,
		"selfsubjectrulesreviews.authorization.k8s.io": true, "nodes.metrics.k8s.io": true, "pods.metrics.k8s.io": true,
	}
	for _, row := range table.Rows() {
		resource := row.GroupResource().String()
		if registered := scheme.Scheme.HasValidationFunc(row.Object); registered == silent[resource] {
			t.Errorf("%s has declared rules: %v, and is listed as having none: %v", resource, registered, silent[resource])
		}
		for _, old := range []runtime.Object{nil, row.Object.DeepCopyObject()} {
			for _, err := range declared.Check(context.Background(), scheme.Scheme, row.Object.DeepCopyObject(), old, nil) {
				if err.Type == field.ErrorTypeInternal {
					t.Errorf("%s: %v", resource, err)
				}
			}
		}
	}
}

// TestGeneratedIsCurrent generates again what is committed.
func TestGeneratedIsCurrent(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	source, err := os.ReadFile("declared.go")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(source), "//go:generate ")
	line, _, _ = strings.Cut(line, "\n")
	before := contents(t)
	// In place, because the generator knows no other: unless something changed, no byte does.
	if output, err := exec.Command(strings.Fields(line)[0], strings.Fields(line)[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, output)
	}
	after := contents(t)
	for file, was := range before {
		if !bytes.Equal(was, after[file]) {
			t.Errorf("%s is not what go generate makes now: run make generate and commit it", file)
			if err := os.WriteFile(file, was, 0o644); err != nil {
				t.Error(err)
			}
		}
	}
	if len(before) != len(after) {
		t.Errorf("go generate makes %d files, %d are committed", len(after), len(before))
	}
}

func contents(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("*/zz_generated.validations.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no generated files: %v", err)
	}
	all := map[string][]byte{}
	for _, file := range files {
		if all[file], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	return all
}
