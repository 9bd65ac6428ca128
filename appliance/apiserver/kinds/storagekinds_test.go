package kinds

import (
	"context"
	"strings"
	"testing"

	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestStorageVersionMigration(t *testing.T) {
	condition := func(kind storagemigrationv1.MigrationConditionType, status metav1.ConditionStatus) metav1.Condition {
		return metav1.Condition{Type: string(kind), Status: status, Reason: "Test", LastTransitionTime: metav1.Now()}
	}
	migration := &storagemigrationv1.StorageVersionMigration{
		Spec:   storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: "secrets"}},
		Status: storagemigrationv1.StorageVersionMigrationStatus{Conditions: []metav1.Condition{condition(storagemigrationv1.MigrationSucceeded, "True")}, ResourceVersion: "7"},
	}
	expect(t, StorageVersionMigration.Validate(context.Background(), migration), "")
	expect(t, StorageVersionMigration.Validate(context.Background(), &storagemigrationv1.StorageVersionMigration{}), "spec.resource.resource: Required value")
	other := migration.DeepCopy()
	other.Spec.Resource.Group = "example.com"
	expect(t, StorageVersionMigration.ValidateUpdate(context.Background(), other, migration), "spec: Invalid value")

	type status = storagemigrationv1.StorageVersionMigrationStatus
	tests := map[string]change[*status]{
		"what ended is written again":     {to: func(*status) {}},
		"what others say does not matter": {to: func(s *status) { s.Conditions = append(s.Conditions, condition("Watched", "True")) }},
		"what ended does not run": {to: func(s *status) {
			s.Conditions = append(s.Conditions, condition(storagemigrationv1.MigrationRunning, "True"))
		}, want: "Running condition cannot be true"},
		"what succeeded did not fail": {to: func(s *status) {
			s.Conditions = append(s.Conditions, condition(storagemigrationv1.MigrationFailed, "True"))
		}, want: "cannot be true at the same time"},
		"what succeeded stays so":          {to: func(s *status) { s.Conditions[0].Status = "False" }, want: "cannot be set to false once it is true"},
		"conditions have reasons":          {to: func(s *status) { s.Conditions[0].Reason = "" }, want: "status.conditions[0].reason: Required value"},
		"where it began does not change":   {to: func(s *status) { s.ResourceVersion = "8" }, want: "status.resourceVersion: Invalid value"},
		"where it began does not get lost": {to: func(s *status) { s.ResourceVersion = "" }, want: "status.resourceVersion: Invalid value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := migration.DeepCopy()
			tc.to(&next.Status)
			expect(t, StorageVersionMigration.ValidateStatus(context.Background(), next, migration), tc.want)
		})
	}
	fresh := &storagemigrationv1.StorageVersionMigration{Status: storagemigrationv1.StorageVersionMigrationStatus{ResourceVersion: "abc"}}
	expect(t, StorageVersionMigration.ValidateStatus(context.Background(), fresh, &storagemigrationv1.StorageVersionMigration{}), "must be a number")
}

func TestCSINode(t *testing.T) {
	node := &storagev1.CSINode{Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
		{Name: "disk.Example.com", NodeID: "n1", TopologyKeys: []string{"example.com/zone"}, Allocatable: &storagev1.VolumeNodeResources{Count: ptr.To[int32](8)}},
		{Name: "file.example.com", NodeID: "n1"},
	}}}
	type spec = storagev1.CSINodeSpec
	tests := map[string]change[*spec]{
		"drivers may stay": {to: func(*spec) {}},
		"drivers may come": {to: func(s *spec) {
			s.Drivers = append(s.Drivers, storagev1.CSINodeDriver{Name: "b.example.com", NodeID: "x"})
		}},
		"drivers may go":                 {to: func(s *spec) { s.Drivers = s.Drivers[:1] }},
		"drivers may take other numbers": {to: func(s *spec) { s.Drivers[0].Allocatable.Count = ptr.To[int32](9) }},
		"drivers keep the node's name":   {to: func(s *spec) { s.Drivers[0].NodeID = "n2" }, want: "spec.drivers[0]: Invalid value"},
		"drivers keep their topology":    {to: func(s *spec) { s.Drivers[0].TopologyKeys = nil }, want: "field is immutable"},
		"a driver has a domain":          {to: func(s *spec) { s.Drivers[1].Name = "a_b" }, want: "spec.drivers[1].name: Invalid value"},
		"a driver has a short name":      {to: func(s *spec) { s.Drivers[1].Name = strings.Repeat("a", 64) }, want: "spec.drivers[1].name: Too long"},
		"a driver names the node":        {to: func(s *spec) { s.Drivers[1].NodeID = "" }, want: "spec.drivers[1].nodeID: Required value"},
		"a driver takes no less than 0":  {to: func(s *spec) { s.Drivers[0].Allocatable.Count = ptr.To[int32](-1) }, want: "spec.drivers[0].allocatable.count: Invalid value"},
		"a driver's keys are labels":     {to: func(s *spec) { s.Drivers[1].TopologyKeys = []string{"a b"} }, want: "spec.drivers[1].topologyKeys[0]: Invalid value"},
		"a driver's keys come once":      {to: func(s *spec) { s.Drivers[1].TopologyKeys = []string{"a", "a"} }, want: "spec.drivers[1].topologyKeys[1]: Duplicate value"},
		"a driver comes once":            {to: func(s *spec) { s.Drivers[1].Name = s.Drivers[0].Name }, want: "spec.drivers[1].name: Duplicate value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := node.DeepCopy()
			tc.to(&next.Spec)
			expect(t, CSINode.ValidateUpdate(context.Background(), next, node), tc.want)
		})
	}
	ill := &storagev1.CSINode{Status: storagev1.CSINodeStatus{StorageHealth: []storagev1.StorageHealth{{Name: "disk.example.com",
		HealthConditions: []storagev1.StorageHealthCondition{{Status: storagev1.StorageDegraded, Reason: "Slow"}}}}}}
	expect(t, CSINode.ValidateStatus(context.Background(), ill, node), "")
	ill.Status.StorageHealth[0].HealthConditions[0].Status = "Sad"
	expect(t, CSINode.ValidateStatus(context.Background(), ill, node), "status.storageHealth[0].healthConditions[0].status: Unsupported value")
}

func TestCSIStorageCapacity(t *testing.T) {
	capacity := &storagev1.CSIStorageCapacity{
		StorageClassName: "fast", NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{"zone": "a"}},
		Capacity: ptr.To(apiresource.MustParse("1Gi")),
	}
	tests := map[string]change[*storagev1.CSIStorageCapacity]{
		"there may be less":            {to: func(c *storagev1.CSIStorageCapacity) { c.Capacity = ptr.To(apiresource.MustParse("0")) }},
		"there may be nothing to say":  {to: func(c *storagev1.CSIStorageCapacity) { c.Capacity = nil }},
		"there is no less than 0":      {to: func(c *storagev1.CSIStorageCapacity) { c.Capacity = ptr.To(apiresource.MustParse("-1")) }, want: "capacity: Invalid value: \"-1\""},
		"no volume is smaller than 0":  {to: func(c *storagev1.CSIStorageCapacity) { c.MaximumVolumeSize = ptr.To(apiresource.MustParse("-1")) }, want: "maximumVolumeSize: Invalid value"},
		"the class is needed":          {to: func(c *storagev1.CSIStorageCapacity) { c.StorageClassName = "" }, want: "storageClassName: Required value"},
		"the class stays":              {to: func(c *storagev1.CSIStorageCapacity) { c.StorageClassName = "slow" }, want: "storageClassName: Invalid value"},
		"the place stays":              {to: func(c *storagev1.CSIStorageCapacity) { c.NodeTopology = nil }, want: "nodeTopology: Invalid value"},
		"the place is a label's value": {to: func(c *storagev1.CSIStorageCapacity) { c.NodeTopology.MatchLabels["zone"] = "a b" }, want: "nodeTopology.matchLabels: Invalid value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := capacity.DeepCopy()
			tc.to(next)
			expect(t, CSIStorageCapacity.ValidateUpdate(context.Background(), next, capacity), tc.want)
		})
	}
}

func TestVolumeAttributesClass(t *testing.T) {
	class := &storagev1.VolumeAttributesClass{DriverName: "disk.example.com", Parameters: map[string]string{"iops": "500"}}
	tests := map[string]change[*storagev1.VolumeAttributesClass]{
		"a class may get labels":        {to: func(c *storagev1.VolumeAttributesClass) { c.Labels = map[string]string{"a": "b"} }},
		"the driver stays":              {to: func(c *storagev1.VolumeAttributesClass) { c.DriverName = "file.example.com" }, want: "driverName: Forbidden"},
		"the driver is needed":          {to: func(c *storagev1.VolumeAttributesClass) { c.DriverName = "" }, want: "driverName: Required value"},
		"the parameters stay":           {to: func(c *storagev1.VolumeAttributesClass) { c.Parameters["iops"] = "9" }, want: "parameters: Forbidden"},
		"parameters are needed":         {to: func(c *storagev1.VolumeAttributesClass) { c.Parameters = nil }, want: "parameters: Required value"},
		"parameters have names":         {to: func(c *storagev1.VolumeAttributesClass) { c.Parameters[""] = "x" }, want: "parameters: Invalid value"},
		"parameters are not for movies": {to: func(c *storagev1.VolumeAttributesClass) { c.Parameters["x"] = strings.Repeat("x", 256*1024) }, want: "parameters: Too long"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := class.DeepCopy()
			tc.to(next)
			expect(t, VolumeAttributesClass.ValidateUpdate(context.Background(), next, class), tc.want)
		})
	}
}
