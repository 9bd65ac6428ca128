package runtime

import (
	"path/filepath"

	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/platforms"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/workloads/agent/translate"
)

const (
	runtimeName = "runc"
	// longestShimDir is what containerd accepts: a shim's socket is this folder, a hash and 108 bytes at most.
	longestShimDir = 42
)

// settings is everything about this machine that containerd's configuration depends on.
type settings struct {
	paths       config.Paths
	helpers     string // folder of runc, the shim and the CNI client; "" means PATH
	snapshotter string
	hugepages   bool   // the kernel can hold groups to them
	clampOOM    bool   // this process may not lower an oom_score_adj
	path        string // PATH of this process, the helpers' folder first
	registries  string // folder of hosts.toml files
	cniConf     string // folder of the pod network's configuration
	cniBin      string // and of its programs; "": the helpers'
}

// containerdConfig is the whole configuration, in containerd's own terms (version 4).
func containerdConfig(s settings) *srvconfig.Config {
	runc, cniDirs := "", filepath.SplitList(s.path)
	if s.helpers != "" {
		runc, cniDirs = filepath.Join(s.helpers, "runc"), []string{s.helpers}
	}
	if s.cniBin != "" {
		cniDirs = []string{s.cniBin}
	}
	shimManager := map[string]any{}
	if dir := filepath.Join(s.paths.Run, "s"); len(dir) <= longestShimDir {
		shimManager["socket_dir"] = dir
	}

	return &srvconfig.Config{
		Version: version.ConfigVersion,
		Root:    s.paths.Containerd(),
		State:   s.paths.ContainerdState(),
		// Nobody reads these numbers, and they register themselves with the process for good.
		DisabledPlugins: []string{"io.containerd.metrics.v1.grpc-prometheus", "io.containerd.metrics.v1.grpc-otel"},
		// Without these two there is no node; containerd itself would only log that they failed.
		RequiredPlugins: []string{"io.containerd.grpc.v1.cri", "io.containerd.server.v1.ttrpc"},
		Plugins: map[string]any{
			"io.containerd.server.v1.grpc":  map[string]any{"address": s.paths.ContainerdSocket()},
			"io.containerd.server.v1.ttrpc": map[string]any{"address": s.paths.ContainerdSocket() + ".ttrpc"},
			"io.containerd.shim.v1.manager": shimManager,
			// The first collection looks at every blob; it must not compete with the start of the machine.
			"io.containerd.gc.v1.scheduler": map[string]any{"startup_delay": "1m"},
			"io.containerd.transfer.v1.local": map[string]any{
				"max_concurrent_downloads": 3,
				"config_path":              s.registries,
				"unpack_config": []map[string]any{{
					"platform":    platforms.Format(platforms.DefaultSpec()),
					"snapshotter": s.snapshotter,
					"differ":      "walking",
				}},
			},
			"io.containerd.grpc.v1.cri": map[string]any{
				"disable_tcp_service":   true,
				"stream_server_address": "127.0.0.1", // behind the node's own HTTPS server, which authenticates
				"stream_server_port":    "0",
				"stream_idle_timeout":   "4h",
			},
			"io.containerd.cri.v1.images": map[string]any{
				"snapshotter":              s.snapshotter,
				"max_concurrent_downloads": 3,
				"stats_collect_period":     60, // seconds
				"registry":                 map[string]any{"config_path": s.registries},
			},
			"io.containerd.cri.v1.runtime": map[string]any{
				"netns_mounts_under_state_dir": true, // two machines on one host must not share /run/netns
				"restrict_oom_score_adj":       s.clampOOM,
				"disable_hugetlb_controller":   !s.hugepages, // without one, containerd would warn for each container
				"enable_criu":                  false,
				"cdi_spec_dirs":                []string{},
				"stats_collect_period":         "1m", // its one second would be most of an idle machine's work
				"stats_retention_period":       "3m",
				"drain_exec_sync_io_timeout":   "5s", // a background process of an exec probe must not hold it open
				"cni": map[string]any{
					"bin_dirs":              cniDirs,
					"conf_dir":              s.cniConf,
					"max_conf_num":          1,
					"use_internal_loopback": true,
					"ip_pref":               "cni", // a pod's first address is of the cluster's first family
				},
				"containerd": map[string]any{
					"default_runtime_name": runtimeName,
					"runtimes": map[string]any{
						runtimeName: map[string]any{
							// By its name, found on PATH: for a shim named by its path, containerd asks about old
							// features before each container, which costs two processes.
							"runtime_type": "io.containerd.runc.v2",
							// The shim keeps the sandbox as a process (workloads/agent/sandbox), not as a container:
							// no image, snapshot and runc run for it.
							"sandboxer":                "shim",
							"container_annotations":    []string{translate.NoteSeccomp},
							"disable_pause_image_pull": true,
							"options": map[string]any{
								"BinaryName":    runc,
								"SystemdCgroup": false,
								"Root":          filepath.Join(s.paths.Run, "runc"),
							},
						},
					},
				},
			},
		},
	}
}
