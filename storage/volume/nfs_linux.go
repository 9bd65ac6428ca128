package volume

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// setUpNFS mounts a share by the kernel itself; no program beside it is needed.
func (m *Manager) setUpNFS(ctx context.Context, pod *corev1.Pod, name string, share *corev1.NFSVolumeSource, options []string, readOnly bool) (string, error) {
	folder := m.path(pod.UID, "nfs", name)
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return "", fmt.Errorf("make %s: %w", folder, err)
	}
	if mounted, err := isMountPoint(folder); err != nil || mounted {
		return folder, err
	}
	addr, err := reachNFS(ctx, share.Server)
	if err != nil {
		return "", err
	}
	flags, tries := nfsMount(addr, options, readOnly)
	var failed error
	for _, data := range tries {
		failed = unix.Mount(share.Server+":"+path.Clean("/"+share.Path), folder, "nfs", flags, data)
		if !errors.Is(failed, unix.EPROTONOSUPPORT) && !errors.Is(failed, unix.EINVAL) { // which mean another version may do
			break
		}
	}
	switch {
	case failed == nil:
		return folder, nil
	case errors.Is(failed, unix.ENODEV):
		return "", fmt.Errorf("mount nfs share %s:%s: this node's kernel has no NFS client: load its module (modprobe nfs, often in a package of extra modules) or use another kernel", share.Server, share.Path)
	case errors.Is(failed, unix.EACCES), errors.Is(failed, unix.EPERM):
		return "", fmt.Errorf("mount nfs share %s:%s: %w: is it exported to this node (%s)?", share.Server, share.Path, failed, m.config.NodeName)
	}
	return "", fmt.Errorf("mount nfs share %s:%s: %w", share.Server, share.Path, failed)
}

// nfsPatience is how long a server may take to answer at all: mount itself would wait for minutes, and the pod with it.
const nfsPatience = 10 * time.Second

// reachNFS finds the server's address, which the kernel does not do itself, and whether it answers.
func reachNFS(ctx context.Context, server string) (string, error) {
	dialer := net.Dialer{Timeout: nfsPatience}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(strings.Trim(server, "[]"), "2049"))
	if err != nil {
		return "", fmt.Errorf("nfs server %s does not answer: %w", server, err)
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	return host, err
}

// mountFlags are options the kernel takes as bits and not as text.
var mountFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "rw": 0, "noatime": unix.MS_NOATIME, "relatime": unix.MS_RELATIME, "nodiratime": unix.MS_NODIRATIME, "noexec": unix.MS_NOEXEC, "nosuid": unix.MS_NOSUID,
	"nodev": unix.MS_NODEV, "sync": unix.MS_SYNCHRONOUS, "strictatime": unix.MS_STRICTATIME, "exec": 0, "suid": 0, "dev": 0, "async": 0, "defaults": 0,
}

// nfsMount is how a share is mounted: bits, and what to try as text, newest version first unless one is asked for.
// Version 3 is mounted without its lock server, which would need programs of its own.
func nfsMount(addr string, options []string, readOnly bool) (flags uintptr, tries []string) {
	var text []string
	version := ""
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	for _, list := range options {
		for option := range strings.SplitSeq(list, ",") {
			bit, isBit := mountFlags[option]
			switch {
			case isBit:
				flags |= bit
			case strings.HasPrefix(option, "vers="), strings.HasPrefix(option, "nfsvers="):
				version = option[strings.Index(option, "=")+1:]
			case option != "" && option != "_netdev" && option != "nofail":
				text = append(text, option)
			}
		}
	}
	versions := []string{"4.2", "4.1", "4.0", "3"}
	if version != "" {
		versions = []string{version}
	}
	for _, v := range versions {
		parts := append([]string{"vers=" + v, "addr=" + addr}, text...)
		if v == "3" {
			parts = append(parts, "nolock")
		}
		tries = append(tries, strings.Join(parts, ","))
	}
	return flags, tries
}
