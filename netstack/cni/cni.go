// Package cni is the conversation between containerd and the pod network, in the words of the CNI specification.
//
// In:       what a container runtime gives a CNI plugin: CNI_ variables and a configuration on stdin.
// Out:      one Request over a unix socket, one Reply back, printed as the specification asks.
// Promise:  nothing but the standard library, because every millisecond the client takes is added to each pod's start.
// Not here: links and addresses (netstack/podnet).
package cni

import (
	"encoding/json"
	"errors"
	"fmt"
)

// PluginType is the plugin's name in the configuration, and so the name of the client's file.
const PluginType = "knarr-cni"

// Versions of the specification that our answers fit, oldest first.
var Versions = []string{"1.0.0", "1.1.0"}

// Commands of the specification.
const (
	Add     = "ADD"
	Del     = "DEL"
	Check   = "CHECK"
	Status  = "STATUS"
	GC      = "GC"
	Version = "VERSION"
)

// Request is one call of the plugin, as the client forwards it.
type Request struct {
	Command     string          `json:"command"`
	ContainerID string          `json:"containerID,omitempty"`
	Netns       string          `json:"netns,omitempty"`
	IfName      string          `json:"ifName,omitempty"`
	Args        string          `json:"args,omitempty"`
	Config      json.RawMessage `json:"config"`
}

// Reply is the answer: what the client prints, and whether it is an error.
type Reply struct {
	Failed bool            `json:"failed,omitempty"`
	Output json.RawMessage `json:"output,omitempty"`
}

// NetConf is the part of the configuration that we read.
type NetConf struct {
	CNIVersion    string        `json:"cniVersion"`
	Name          string        `json:"name"`
	Type          string        `json:"type"`
	Socket        string        `json:"socket"`
	RuntimeConfig RuntimeConfig `json:"runtimeConfig"`
	// ValidAttachments comes with GC: everything that is not in it has to go.
	ValidAttachments []Attachment `json:"cni.dev/valid-attachments"`
}

// RuntimeConfig is what the runtime adds for one pod.
type RuntimeConfig struct {
	PortMappings []PortMapping `json:"portMappings"`
	Bandwidth    Bandwidth     `json:"bandwidth"`
}

// Bandwidth is a pod's limits in bits a second; 0 is none. The specification has bursts beside them, which a runtime that knows
// a pod's annotations alone has to make up.
type Bandwidth struct {
	Ingress uint64 `json:"ingressRate,omitempty"` // to the pod
	Egress  uint64 `json:"egressRate,omitempty"`  // from the pod
}

// PortMapping is one host port of a pod.
type PortMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// Attachment names one interface of one container.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// Result is the answer to ADD.
type Result struct {
	CNIVersion string      `json:"cniVersion"`
	Interfaces []Interface `json:"interfaces"`
	IPs        []IP        `json:"ips"`
	Routes     []Route     `json:"routes"`
	DNS        struct{}    `json:"dns"`
}

// Interface is one end of a pod's link; Sandbox is empty for the host's end.
type Interface struct {
	Name    string `json:"name"`
	Mac     string `json:"mac"`
	Sandbox string `json:"sandbox,omitempty"`
}

// IP is an address of Interfaces[Interface].
type IP struct {
	Address   string `json:"address"`
	Gateway   string `json:"gateway"`
	Interface int    `json:"interface"`
}

// Route is a route inside the pod.
type Route struct {
	Dst string `json:"dst"`
	GW  string `json:"gw"`
}

// Error codes of the specification.
const (
	CodeVersion      = 1  // the configuration asks for a version we don't speak
	CodeUnknown      = 3  // the container or its interface is not known
	CodeEnvironment  = 4  // a CNI_ variable is missing or wrong
	CodeIO           = 5  // the pod network could not be asked
	CodeDecode       = 6  // the configuration cannot be read
	CodeConfig       = 7  // the configuration is wrong
	CodeTryLater     = 11 // transient: the runtime should try again
	CodeNotAvailable = 50 // STATUS: ADD cannot be served now
	CodeInternal     = 100
)

// Error is an error of the specification; any other error is sent as CodeInternal.
type Error struct {
	Code int
	Msg  string
}

func (e *Error) Error() string { return e.Msg }

// Errorf makes an Error.
func Errorf(code int, format string, args ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// failure is how the specification prints an error.
type failure struct {
	CNIVersion string `json:"cniVersion"`
	Code       int    `json:"code"`
	Msg        string `json:"msg"`
}

// failed is the Reply for err.
func failed(version string, err error) Reply {
	code := CodeInternal
	var coded *Error
	if errors.As(err, &coded) {
		code = coded.Code
	}
	if version == "" {
		version = Versions[len(Versions)-1]
	}
	output, err := json.Marshal(failure{CNIVersion: version, Code: code, Msg: err.Error()})
	if err != nil {
		panic(err) // three plain fields always have a JSON form
	}
	return Reply{Failed: true, Output: output}
}
