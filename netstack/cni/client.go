package cni

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// clientTimeout bounds one call. An ADD takes milliseconds; a runtime that waits longer than this is better served
// by an error, which it retries, than by silence.
const clientTimeout = 30 * time.Second

// Main is the client: it answers VERSION itself, forwards anything else to the socket the configuration names,
// prints the answer and returns the exit code.
func Main(getenv func(string) string, stdin io.Reader, stdout io.Writer) int {
	reply := call(getenv, stdin)
	if len(reply.Output) > 0 {
		if _, err := stdout.Write(append(reply.Output, '\n')); err != nil {
			return 1
		}
	}
	if reply.Failed {
		return 1
	}
	return 0
}

func call(getenv func(string) string, stdin io.Reader) Reply {
	config, err := io.ReadAll(stdin)
	if err != nil {
		return failed("", Errorf(CodeIO, "read the CNI configuration: %v", err))
	}
	request := Request{
		Command:     getenv("CNI_COMMAND"),
		ContainerID: getenv("CNI_CONTAINERID"),
		Netns:       getenv("CNI_NETNS"),
		IfName:      getenv("CNI_IFNAME"),
		Args:        getenv("CNI_ARGS"),
		Config:      config,
	}
	var conf NetConf
	if err := json.Unmarshal(config, &conf); err != nil {
		return failed("", Errorf(CodeDecode, "decode the CNI configuration: %v", err))
	}
	if request.Command == Version {
		return versions(conf.CNIVersion)
	}
	if err := request.validate(conf); err != nil {
		return failed(conf.CNIVersion, err)
	}
	reply, err := ask(conf.Socket, request)
	if err != nil {
		return failed(conf.CNIVersion, err)
	}
	return reply
}

func versions(asked string) Reply {
	output, err := json.Marshal(struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}{CNIVersion: asked, SupportedVersions: Versions})
	if err != nil {
		return failed(asked, fmt.Errorf("encode the versions: %w", err))
	}
	return Reply{Output: output}
}

// validate finds what is missing before anybody is asked, so that the message names the variable.
func (r Request) validate(conf NetConf) error {
	if !slices.Contains(Versions, conf.CNIVersion) {
		return Errorf(CodeVersion, "CNI version %q is not supported: use one of %v", conf.CNIVersion, Versions)
	}
	if conf.Socket == "" {
		return Errorf(CodeConfig, `the CNI configuration has no "socket": it must name the socket of a running knarr`)
	}
	missing := ""
	switch r.Command {
	case Add, Check, Del:
		switch {
		case r.ContainerID == "":
			missing = "CNI_CONTAINERID"
		case r.IfName == "":
			missing = "CNI_IFNAME"
		case r.Netns == "" && r.Command != Del: // the namespace may be gone before its DEL
			missing = "CNI_NETNS"
		}
	case Status, GC:
	default:
		return Errorf(CodeEnvironment, "CNI_COMMAND %q is not a command of the specification", r.Command)
	}
	if missing != "" {
		return Errorf(CodeEnvironment, "%s needs %s", r.Command, missing)
	}
	return nil
}

// ask sends one request. The runtime may retry when knarr is restarting, hence CodeTryLater.
func ask(socket string, request Request) (Reply, error) {
	conn, err := net.DialTimeout("unix", socket, clientTimeout)
	if err != nil {
		return Reply{}, Errorf(CodeTryLater, "reach the pod network: %v: is knarr running on this machine?", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(clientTimeout)); err != nil {
		return Reply{}, Errorf(CodeIO, "limit the wait for the pod network: %v", err)
	}
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return Reply{}, Errorf(CodeTryLater, "send %s to the pod network: %v", request.Command, err)
	}
	var reply Reply
	if err := json.NewDecoder(conn).Decode(&reply); err != nil {
		return Reply{}, Errorf(CodeTryLater, "read the pod network's answer to %s: %v", request.Command, err)
	}
	return reply, nil
}
