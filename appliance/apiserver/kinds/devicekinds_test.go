package kinds

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

func TestDeviceClass(t *testing.T) {
	class := &resourcev1.DeviceClass{Spec: resourcev1.DeviceClassSpec{
		Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.driver == "gpu.example.com"`}}},
		Config: []resourcev1.DeviceClassConfiguration{{DeviceConfiguration: resourcev1.DeviceConfiguration{Opaque: &resourcev1.OpaqueDeviceConfiguration{
			Driver: "gpu.example.com", Parameters: runtime.RawExtension{Raw: []byte(`{"mode":"shared"}`)},
		}}}},
		ExtendedResourceName: ptr.To("example.com/gpu"),
	}}
	type spec = resourcev1.DeviceClassSpec
	tests := map[string]change[*spec]{
		"a class may be as it is":               {to: func(*spec) {}},
		"a class may be empty":                  {to: func(s *spec) { *s = spec{} }},
		"a selector has an expression":          {to: func(s *spec) { s.Selectors[0].CEL.Expression = "" }, want: "spec.selectors[0].cel.expression: Required value"},
		"a selector is of some kind":            {to: func(s *spec) { s.Selectors[0].CEL = nil }, want: "spec.selectors[0].cel: Required value"},
		"a selector is not for ever":            {to: func(s *spec) { s.Selectors[0].CEL.Expression = strings.Repeat("x", 10*1024+1) }, want: "spec.selectors[0].cel.expression: Too long"},
		"there are not too many selectors":      {to: func(s *spec) { s.Selectors = make([]resourcev1.DeviceSelector, 33) }, want: "spec.selectors: Too many: 33"},
		"a configuration is for a driver":       {to: func(s *spec) { s.Config[0].Opaque.Driver = "" }, want: "spec.config[0].opaque.driver: Required value"},
		"a configuration says something":        {to: func(s *spec) { s.Config[0].Opaque.Parameters.Raw = nil }, want: "spec.config[0].opaque.parameters: Required value"},
		"a configuration is an object":          {to: func(s *spec) { s.Config[0].Opaque.Parameters.Raw = []byte(`[1]`) }, want: "spec.config[0].opaque.parameters: Invalid value"},
		"a configuration is of some kind":       {to: func(s *spec) { s.Config[0].Opaque = nil }, want: "spec.config[0].opaque: Required value"},
		"an extended resource has a domain":     {to: func(s *spec) { s.ExtendedResourceName = ptr.To("gpu") }, want: "spec.extendedResourceName: Invalid value"},
		"an extended resource is somebody else": {to: func(s *spec) { s.ExtendedResourceName = ptr.To("a.kubernetes.io/gpu") }, want: "spec.extendedResourceName: Invalid value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := class.DeepCopy()
			tc.to(&next.Spec)
			expect(t, DeviceClass.Validate(context.Background(), next), tc.want)
		})
	}
}

func TestResourceSlice(t *testing.T) {
	slice := &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{
		Driver: "gpu.example.com", Pool: resourcev1.ResourcePool{Name: "n1/gpus", ResourceSliceCount: 1}, NodeName: ptr.To("n1"),
		Devices: []resourcev1.Device{{
			Name: "gpu-0",
			Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
				"model": {StringValue: ptr.To("a100")}, "example.com/firmware": {VersionValue: ptr.To("1.2.3")},
			},
			Capacity:         map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: apiresource.MustParse("40Gi")}},
			ConsumesCounters: []resourcev1.DeviceCounterConsumption{{CounterSet: "gpu", Counters: map[string]resourcev1.Counter{"memory": {Value: apiresource.MustParse("40Gi")}}}},
			Taints:           []resourcev1.DeviceTaint{{Key: "hot", Effect: resourcev1.DeviceTaintEffectNoSchedule}},
		}},
	}}
	ResourceSlice.PrepareCreate(context.Background(), slice)
	if slice.Spec.Devices[0].Taints[0].TimeAdded == nil {
		t.Error("a taint got no date")
	}
	if got := ResourceSlice.Fields(slice); got["spec.nodeName"] != "n1" || got["spec.driver"] != "gpu.example.com" || got["spec.pool.name"] != "n1/gpus" {
		t.Errorf("fields = %v", got)
	}
	type spec = resourcev1.ResourceSliceSpec
	memory := func(s *spec, c resourcev1.DeviceCapacity, shared bool) {
		s.Devices[0].Capacity["memory"], s.Devices[0].AllowMultipleAllocations = c, &shared
	}
	quantity := func(text string) *apiresource.Quantity { return ptr.To(apiresource.MustParse(text)) }
	ranged := func(from, to, step, normal string) resourcev1.DeviceCapacity {
		return resourcev1.DeviceCapacity{Value: apiresource.MustParse("40"), RequestPolicy: &resourcev1.CapacityRequestPolicy{
			Default: quantity(normal), ValidRange: &resourcev1.CapacityRequestPolicyRange{Min: quantity(from), Max: quantity(to), Step: quantity(step)},
		}}
	}
	valued := func(normal string, values ...string) resourcev1.DeviceCapacity {
		c := resourcev1.DeviceCapacity{Value: apiresource.MustParse("40"), RequestPolicy: &resourcev1.CapacityRequestPolicy{Default: quantity(normal)}}
		for _, value := range values {
			c.RequestPolicy.ValidValues = append(c.RequestPolicy.ValidValues, *quantity(value))
		}
		return c
	}
	many := func(count int) []resourcev1.Device {
		devices := make([]resourcev1.Device, count)
		for i := range devices {
			devices[i].Name = fmt.Sprintf("d-%d", i)
		}
		return devices
	}
	tests := map[string]change[*spec]{
		"a slice may be as it is":            {to: func(*spec) {}},
		"devices may go":                     {to: func(s *spec) { s.Devices = nil }},
		"the driver stays":                   {to: func(s *spec) { s.Driver = "other.example.com" }, want: "spec.driver: Invalid value"},
		"the pool stays":                     {to: func(s *spec) { s.Pool.Name = "other" }, want: "spec.pool.name: Invalid value"},
		"the node stays":                     {to: func(s *spec) { s.NodeName = ptr.To("n2") }, want: "spec.nodeName: Invalid value"},
		"a pool's name has parts":            {to: func(s *spec) { s.Pool.Name = "a//b" }, want: "spec.pool.name: Invalid value"},
		"a pool has slices":                  {to: func(s *spec) { s.Pool.ResourceSliceCount = 0 }, want: "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than 0"},
		"devices are on one node or all":     {to: func(s *spec) { s.AllNodes = ptr.To(true) }, want: "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"},
		"all nodes are not none":             {to: func(s *spec) { s.AllNodes = ptr.To(false) }, want: "spec.allNodes: Invalid value: false"},
		"each device says where it is":       {to: func(s *spec) { s.NodeName, s.PerDeviceNodeSelection = nil, ptr.To(true) }, want: "is required when `perDeviceNodeSelection` is set"},
		"a slice says where its devices are": {to: func(s *spec) { s.Devices[0].AllNodes = ptr.To(true) }, want: "can only be set if `perDeviceNodeSelection`"},
		"a selector has one term": {to: func(s *spec) {
			s.NodeSelector = &corev1.NodeSelector{NodeSelectorTerms: make([]corev1.NodeSelectorTerm, 2)}
		}, want: "must have exactly one node selector term"},
		"a device has a name":                  {to: func(s *spec) { s.Devices[0].Name = "GPU" }, want: "spec.devices[0].name: Invalid value"},
		"a device comes once":                  {to: func(s *spec) { s.Devices = append(s.Devices, s.Devices[0]) }, want: "spec.devices[1].name: Duplicate value"},
		"plain devices may be many":            {to: func(s *spec) { s.Devices = many(128) }},
		"a slice has its limit":                {to: func(s *spec) { s.Devices = many(129) }, want: "spec.devices: Too many: 129: must have at most 128 items"},
		"tainted devices are half as many":     {to: func(s *spec) { s.Devices = append(s.Devices, many(64)...) }, want: "spec.devices: Too many: 65: must have at most 64 items"},
		"an attribute has one value":           {to: func(s *spec) { s.Devices[0].Attributes["model"] = resourcev1.DeviceAttribute{} }, want: "spec.devices[0].attributes[model]: Invalid value"},
		"an attribute's name is an identifier": {to: func(s *spec) { s.Devices[0].Attributes["a-b"] = resourcev1.DeviceAttribute{BoolValue: ptr.To(true)} }, want: "a valid C identifier must start with"},
		"an attribute's text is short": {to: func(s *spec) {
			s.Devices[0].Attributes["model"] = resourcev1.DeviceAttribute{StringValue: ptr.To(strings.Repeat("x", 65))}
		}, want: "spec.devices[0].attributes[model].string: Too long"},
		"a version is semantic": {to: func(s *spec) { s.Devices[0].Attributes["v"] = resourcev1.DeviceAttribute{VersionValue: ptr.To("1.2")} }, want: "spec.devices[0].attributes[v].version: Invalid value"},
		"counters or devices": {to: func(s *spec) {
			s.SharedCounters = []resourcev1.CounterSet{{Name: "gpu", Counters: s.Devices[0].ConsumesCounters[0].Counters}}
		}, want: "spec.sharedCounters: Forbidden"},
		"counters are counted in sets":         {to: func(s *spec) { s.Devices[0].ConsumesCounters[0].CounterSet = "" }, want: "spec.devices[0].consumesCounters[0].counterSet: Required value"},
		"a taint has an effect":                {to: func(s *spec) { s.Devices[0].Taints[0].Effect = "Prefer" }, want: "spec.devices[0].taints[0].effect: Unsupported value"},
		"conditions are names":                 {to: func(s *spec) { s.Devices[0].BindingConditions = []string{"a b"} }, want: "spec.devices[0].bindingConditions[0]: Invalid value"},
		"failures need conditions":             {to: func(s *spec) { s.Devices[0].BindingFailureConditions = []string{"a"} }, want: "spec.devices[0].bindingConditions: Required value"},
		"shared devices give parts":            {to: func(s *spec) { memory(s, ranged("10", "40", "10", "20"), true) }},
		"devices of one user give everything":  {to: func(s *spec) { memory(s, ranged("10", "40", "10", "20"), false) }, want: "requestPolicy: Forbidden: allowMultipleAllocations must be true"},
		"a part is one of the steps":           {to: func(s *spec) { memory(s, ranged("10", "40", "10", "25"), true) }, want: "requestPolicy.default: Invalid value"},
		"the largest part is one of the steps": {to: func(s *spec) { memory(s, ranged("10", "35", "10", "20"), true) }, want: "requestPolicy.validRange.max: Invalid value"},
		"a part is not more than all":          {to: func(s *spec) { memory(s, ranged("10", "50", "10", "20"), true) }, want: "max is larger than capacity value 40"},
		"a step leads somewhere":               {to: func(s *spec) { memory(s, ranged("10", "40", "0", "20"), true) }, want: "requestPolicy.validRange.step: Invalid value"},
		"parts may be listed":                  {to: func(s *spec) { memory(s, valued("10", "10", "20"), true) }},
		"listed parts are in order":            {to: func(s *spec) { memory(s, valued("10", "20", "10"), true) }, want: "values must be sorted in ascending order"},
		"the usual part is listed":             {to: func(s *spec) { memory(s, valued("15", "10", "20"), true) }, want: "default value is not valid according to the requestPolicy"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := slice.DeepCopy()
			tc.to(&next.Spec)
			expect(t, ResourceSlice.ValidateUpdate(context.Background(), next, slice), tc.want)
		})
	}
}

func TestDeviceTaintRule(t *testing.T) {
	rule := &resourcev1.DeviceTaintRule{Spec: resourcev1.DeviceTaintRuleSpec{
		DeviceSelector: &resourcev1.DeviceTaintSelector{Driver: ptr.To("gpu.example.com"), Pool: ptr.To("node/one"), Device: ptr.To("gpu-0")},
		Taint:          resourcev1.DeviceTaint{Key: "example.com/broken", Effect: resourcev1.DeviceTaintEffectNoExecute},
	}}
	type spec = resourcev1.DeviceTaintRuleSpec
	tests := map[string]change[*spec]{
		"a rule may be as it is":          {to: func(*spec) {}},
		"a rule may be about nothing":     {to: func(s *spec) { s.DeviceSelector = nil }},
		"a taint has a key":               {to: func(s *spec) { s.Taint.Key = "" }, want: "spec.taint.key: Invalid value: \"\": name part must be non-empty"},
		"a key is a label's":              {to: func(s *spec) { s.Taint.Key = "* *" }, want: "spec.taint.key: Invalid value"},
		"a value is a label's":            {to: func(s *spec) { s.Taint.Value = "a/b" }, want: "spec.taint.value: Invalid value"},
		"a taint has an effect":           {to: func(s *spec) { s.Taint.Effect = "" }, want: "spec.taint.effect: Required value"},
		"an effect is one of a few":       {to: func(s *spec) { s.Taint.Effect = "Prefer" }, want: "spec.taint.effect: Unsupported value"},
		"a driver is a domain":            {to: func(s *spec) { s.DeviceSelector.Driver = ptr.To("a b") }, want: "spec.deviceSelector.driver: Invalid value"},
		"a pool has a pool's name":        {to: func(s *spec) { s.DeviceSelector.Pool = ptr.To("Gt") }, want: "spec.deviceSelector.pool: Invalid value"},
		"a device has a device's name":    {to: func(s *spec) { s.DeviceSelector.Device = ptr.To("a:b") }, want: "spec.deviceSelector.device: Invalid value"},
		"a device that is named has some": {to: func(s *spec) { s.DeviceSelector.Device = ptr.To("") }, want: "spec.deviceSelector.device: Invalid value"},
	}
	ctx := context.Background()
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := rule.DeepCopy()
			tc.to(&next.Spec)
			expect(t, DeviceTaintRule.Validate(ctx, next), tc.want)
		})
	}
	rule.Status.Conditions = make([]metav1.Condition, 9)
	expect(t, DeviceTaintRule.ValidateStatus(ctx, rule, rule), "status.conditions: Too many: 9")
}

func TestDatesOfTaints(t *testing.T) {
	morning, noon := metav1.NewTime(time.Date(2026, 1, 2, 6, 0, 0, 0, time.UTC)), metav1.NewTime(time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC))
	evening := metav1.NewTime(noon.Add(6 * time.Hour))
	taint := func(effect resourcev1.DeviceTaintEffect, at *metav1.Time) *resourcev1.DeviceTaintRule {
		return &resourcev1.DeviceTaintRule{Spec: resourcev1.DeviceTaintRuleSpec{Taint: resourcev1.DeviceTaint{Key: "a", Effect: effect, TimeAdded: at}}}
	}
	tests := map[string]struct {
		next *resourcev1.DeviceTaintRule
		want metav1.Time
	}{
		"a taint that is sent back keeps its date":        {next: taint("NoExecute", &morning), want: morning},
		"one that is sent back without its date keeps it": {next: taint("NoExecute", nil), want: morning},
		"a client may know better":                        {next: taint("NoExecute", &noon), want: noon},
		"another effect begins now":                       {next: taint("NoSchedule", &morning), want: evening},
		"unless a client knows better":                    {next: taint("NoSchedule", &noon), want: noon},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			redateDeviceTaint(tc.next, taint("NoExecute", &morning), evening)
			if got := tc.next.Spec.Taint.TimeAdded; got == nil || !got.Equal(&tc.want) {
				t.Errorf("the taint is of %v, want %v", got, tc.want)
			}
		})
	}
}
