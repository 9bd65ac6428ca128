// Command knarr-cni is the CNI plugin that containerd runs for every pod: it passes the request on to the knarr
// process of this machine.
//
// In:       CNI_ variables, and a configuration on stdin that names knarr's socket.
// Out:      the answer on stdout; exit code 1 when it is an error.
// Promise:  no work of its own, so that it never has to be restarted, upgraded or locked.
// Not here: what the request does (netstack/podnet).
package main

import (
	"os"

	"knarr.dev/knarr/netstack/cni"
)

func main() {
	os.Exit(cni.Main(os.Getenv, os.Stdin, os.Stdout))
}
