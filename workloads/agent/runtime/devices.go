package runtime

import (
	"fmt"

	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// ReadDevices reads what drivers have written about their devices in /etc/cdi and /var/run/cdi, which containerd then
// knows by their names. It is done before a container with such devices is made, so that a machine without any watches
// no folder.
func (r *Runtime) ReadDevices() error {
	if r.remote != nil {
		return nil // it reads them itself
	}
	if err := cdi.Configure(cdi.WithSpecDirs("/etc/cdi", "/var/run/cdi"), cdi.WithAutoRefresh(false)); err != nil {
		return fmt.Errorf("read the specifications of devices in /etc/cdi and /var/run/cdi: %w", err)
	}
	return nil
}
