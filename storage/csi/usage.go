package csi

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	csiv1 "github.com/container-storage-interface/spec/lib/go/csi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// usagePatience is how long a driver may count: whoever asks is a scrape.
const usagePatience = 20 * time.Second

// Usage asks a driver what is in a volume that it published for a pod at a path of this machine. It is nil where the driver
// does not count, or no driver published anything: whoever asks may look for himself.
func (n *Node) Usage(ctx context.Context, pod types.UID, target string) (*statsapi.FsStats, error) {
	uses := n.held.of(pod)
	i := slices.IndexFunc(uses, func(u use) bool { return n.held.target(u) == target })
	if i < 0 {
		return nil, nil
	}
	u := uses[i]
	d, err := n.driver(ctx, u.Driver, 0)
	if err != nil || !d.can[csiv1.NodeServiceCapability_RPC_GET_VOLUME_STATS] {
		return nil, err
	}
	q := &csiv1.NodeGetVolumeStatsRequest{VolumeId: u.Handle, VolumePath: n.told(target)}
	if !u.Ephemeral && d.can[csiv1.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME] {
		q.StagingTargetPath = n.told(filepath.Join(n.held.stage(u.Driver, u.Handle), "globalmount"))
	}
	ctx, cancel := context.WithTimeout(ctx, usagePatience)
	defer cancel()
	answer, err := d.node.NodeGetVolumeStats(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("rpc NodeGetVolumeStats of driver %s: %w", u.Driver, err)
	}
	return usageOf(answer, time.Now()), nil
}

// usageOf is an answer in the words of the node's statistics. What a driver leaves out is left out.
func usageOf(answer *csiv1.NodeGetVolumeStatsResponse, now time.Time) *statsapi.FsStats {
	out := &statsapi.FsStats{Time: metav1.NewTime(now)}
	for _, u := range answer.GetUsage() {
		total, used, available := amount(u.GetTotal()), amount(u.GetUsed()), amount(u.GetAvailable())
		switch u.GetUnit() {
		case csiv1.VolumeUsage_BYTES:
			out.CapacityBytes, out.UsedBytes, out.AvailableBytes = total, used, available
		case csiv1.VolumeUsage_INODES:
			out.Inodes, out.InodesUsed, out.InodesFree = total, used, available
		}
	}
	return out
}

// amount of something; a negative one is a driver's mistake.
func amount(n int64) *uint64 {
	v := uint64(max(n, 0))
	return &v
}
