package sandbox

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// config is what of CRI's PodSandboxConfig decides about the pod's first process.
type config struct {
	hostname     string
	cgroupParent string
	sysctls      map[string]string
	network      mode
	pid          mode
	ipc          mode
	users        bool // its users are not the machine's
}

// mode is CRI's NamespaceMode.
type mode uint64

const node mode = 2 // the machine's own namespace

// parse reads a PodSandboxConfig by its field numbers in CRI's api.proto (v1). CRI's Go package would bring gRPC along,
// which a program that lives beside every pod is better without.
func parse(data []byte) (config, error) {
	c := config{sysctls: map[string]string{}}
	err := fields(data, func(n protowire.Number, b []byte, _ uint64) error {
		switch n {
		case 2:
			c.hostname = string(b)
		case 8:
			return fields(b, c.linux)
		}
		return nil
	})
	if err != nil {
		return config{}, fmt.Errorf("read the pod's sandbox configuration: %w", err)
	}
	return c, nil
}

func (c *config) linux(n protowire.Number, b []byte, _ uint64) error {
	switch n {
	case 1:
		c.cgroupParent = string(b)
	case 2:
		return fields(b, func(n protowire.Number, b []byte, _ uint64) error {
			if n == 1 {
				return fields(b, c.namespaces)
			}
			return nil
		})
	case 3:
		var key, value string
		err := fields(b, func(n protowire.Number, b []byte, _ uint64) error {
			switch n {
			case 1:
				key = string(b)
			case 2:
				value = string(b)
			}
			return nil
		})
		c.sysctls[key] = value
		return err
	}
	return nil
}

func (c *config) namespaces(n protowire.Number, b []byte, v uint64) error {
	switch n {
	case 1:
		c.network = mode(v)
	case 2:
		c.pid = mode(v)
	case 3:
		c.ipc = mode(v)
	case 5: // of a pod that says nothing of its users there is no such field
		c.users = true
		return fields(b, func(n protowire.Number, _ []byte, v uint64) error {
			if n == 1 {
				c.users = mode(v) != node
			}
			return nil
		})
	}
	return nil
}

// fields calls visit for every field of a message, with its bytes or its number.
func fields(data []byte, visit func(protowire.Number, []byte, uint64) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		var b []byte
		var v uint64
		switch kind {
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(data)
		default:
			n = protowire.ConsumeFieldValue(number, kind, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if err := visit(number, b, v); err != nil {
			return err
		}
	}
	return nil
}

// arguments are the pause program's. A pod with a network of its own may bind low ports and ping without privileges,
// unless it says otherwise (containerd's defaults enable_unprivileged_ports and enable_unprivileged_icmp).
func (c config) arguments(netns string) []string {
	sysctls := maps.Clone(c.sysctls)
	var args []string
	if c.network != node {
		groups := "0 2147483647"
		if c.users {
			groups = "0 65535" // all it has; the kernel takes no others
		}
		for name, value := range map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": groups} {
			if _, set := sysctls[name]; !set {
				sysctls[name] = value
			}
		}
		args = append(args, "-n", netns, "-u", c.hostname)
		if c.users {
			args = append(args, "-U")
		}
	}
	if c.ipc != node {
		args = append(args, "-i")
	}
	for _, name := range slices.Sorted(maps.Keys(sysctls)) {
		args = append(args, "-s", sysctlPath(name)+"="+sysctls[name])
	}
	return args
}

// sysctlPath is where a setting lies below /proc/sys. Whichever of . and / comes first in the name separates its parts;
// the other is part of one (sysctl.d(5)).
func sysctlPath(name string) string {
	if dot, slash := strings.IndexByte(name, '.'), strings.IndexByte(name, '/'); dot >= 0 && (slash < 0 || dot < slash) {
		name = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	return path.Join("/", name)[1:] // nothing outside /proc/sys
}
