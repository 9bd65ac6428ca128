package stats

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// sample is one line of a metric.
type sample struct {
	labels string
	value  float64
	at     metav1.Time
}

// family is one metric.
type family struct {
	name, help, kind string
	samples          []sample
}

// WriteResources writes the figures resource autoscaling needs as Prometheus text.
func WriteResources(out io.Writer, summary *statsapi.Summary) error {
	for _, f := range resourceFamilies(summary) {
		if err := f.write(out); err != nil {
			return err
		}
	}
	return nil
}

func resourceFamilies(summary *statsapi.Summary) []family {
	nodeCPU := family{name: "node_cpu_usage_seconds_total", help: "[STABLE] Cumulative cpu time consumed by the node in core-seconds", kind: "counter"}
	nodeMemory := family{name: "node_memory_working_set_bytes", help: "[STABLE] Current working set of the node in bytes", kind: "gauge"}
	podCPU := family{name: "pod_cpu_usage_seconds_total", help: "[STABLE] Cumulative cpu time consumed by the pod in core-seconds", kind: "counter"}
	podMemory := family{name: "pod_memory_working_set_bytes", help: "[STABLE] Current working set of the pod in bytes", kind: "gauge"}
	cpuUsed := family{name: "container_cpu_usage_seconds_total", help: "[STABLE] Cumulative cpu time consumed by the container in core-seconds", kind: "counter"}
	memoryUsed := family{name: "container_memory_working_set_bytes", help: "[STABLE] Current working set of the container in bytes", kind: "gauge"}
	begun := family{name: "container_start_time_seconds", help: "[STABLE] Start time of the container since unix epoch in seconds", kind: "gauge"}

	nodeCPU.addCPU("", summary.Node.CPU)
	nodeMemory.addMemory("", summary.Node.Memory)
	for i := range summary.Pods {
		pod := &summary.Pods[i]
		of := fmt.Sprintf("namespace=%q,pod=%q", pod.PodRef.Namespace, pod.PodRef.Name)
		podCPU.addCPU(of, pod.CPU)
		podMemory.addMemory(of, pod.Memory)
		for j := range pod.Containers {
			container := &pod.Containers[j]
			labels := fmt.Sprintf("container=%q,%s", container.Name, of)
			cpuUsed.addCPU(labels, container.CPU)
			memoryUsed.addMemory(labels, container.Memory)
			begun.samples = append(begun.samples, sample{labels: labels, value: float64(container.StartTime.UnixNano()) / 1e9})
		}
	}
	nodeSwap := family{name: "node_swap_usage_bytes", help: "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems", kind: "gauge"}
	containerSwap := family{name: "container_swap_usage_bytes", help: "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems", kind: "gauge"}
	if s := summary.Node.Swap; s != nil {
		nodeSwap.add("", s.SwapUsageBytes)
	}
	for i := range summary.Pods {
		of := summary.Pods[i].PodRef
		for _, c := range summary.Pods[i].Containers {
			if c.Swap != nil {
				containerSwap.add(fmt.Sprintf("container=%q,namespace=%q,pod=%q", c.Name, of.Namespace, of.Name), c.Swap.SwapUsageBytes)
			}
		}
	}
	failed := family{name: "resource_scrape_error", help: "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise", kind: "gauge", samples: []sample{{}}}
	return []family{cpuUsed, memoryUsed, begun, nodeCPU, nodeMemory, podCPU, podMemory, nodeSwap, containerSwap, failed}
}

func (f *family) addCPU(labels string, cpu *statsapi.CPUStats) {
	if cpu != nil && cpu.UsageCoreNanoSeconds != nil {
		f.samples = append(f.samples, sample{labels: labels, value: float64(*cpu.UsageCoreNanoSeconds) / 1e9, at: cpu.Time})
	}
}

func (f *family) addMemory(labels string, memory *statsapi.MemoryStats) {
	if memory != nil && memory.WorkingSetBytes != nil {
		f.samples = append(f.samples, sample{labels: labels, value: float64(*memory.WorkingSetBytes), at: memory.Time})
	}
}

func (f *family) write(out io.Writer) error {
	if len(f.samples) == 0 {
		return nil
	}
	var text strings.Builder
	fmt.Fprintf(&text, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
	for _, s := range f.samples {
		text.WriteString(f.name)
		if s.labels != "" {
			text.WriteString("{" + s.labels + "}")
		}
		text.WriteString(" " + strconv.FormatFloat(s.value, 'g', -1, 64))
		if !s.at.IsZero() { // when it was measured matters: rates are computed from it
			text.WriteString(" " + strconv.FormatInt(s.at.UnixMilli(), 10))
		}
		text.WriteString("\n")
	}
	_, err := io.WriteString(out, text.String())
	return err
}
