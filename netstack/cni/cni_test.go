package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// book is a Handler that gives every container the same address, once.
type book struct{ given map[string]bool }

func (b *book) Add(_ context.Context, r Request, conf NetConf) (*Result, error) {
	if b.given[r.ContainerID] {
		return nil, errors.New("given already")
	}
	b.given[r.ContainerID] = true
	if len(conf.RuntimeConfig.PortMappings) > 0 {
		return nil, Errorf(CodeConfig, "host port %d is taken", conf.RuntimeConfig.PortMappings[0].HostPort)
	}
	return &Result{IPs: []IP{{Address: "10.42.0.2/32", Gateway: "10.42.0.1"}}}, nil
}

func (b *book) Del(_ context.Context, r Request, _ NetConf) error {
	delete(b.given, r.ContainerID)
	return nil
}

func (b *book) Check(_ context.Context, r Request, _ NetConf) error {
	if !b.given[r.ContainerID] {
		return Errorf(CodeUnknown, "container %s has no address", r.ContainerID)
	}
	return nil
}

func (b *book) Status(context.Context) error { return nil }

func (b *book) GC(_ context.Context, keep []Attachment) error {
	b.given = map[string]bool{}
	for _, attachment := range keep {
		b.given[attachment.ContainerID] = true
	}
	return nil
}

// serve runs a handler until the test ends.
func serve(t *testing.T, path string, handler Handler) {
	t.Helper()
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- Serve(ctx, listener, handler) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Serve() = %v after its context ended", err)
		}
	})
}

// run is the client.
func run(command, container, config string) (exit int, output string) {
	env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/x"}
	var out bytes.Buffer
	exit = Main(func(name string) string { return env[name] }, strings.NewReader(config), &out)
	return exit, strings.TrimSpace(out.String())
}

func TestClientAndServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "run", "cni.sock")
	conf := func(more string) string {
		return `{"cniVersion":"1.0.0","name":"knarr","type":"knarr-cni","socket":"` + socket + `"` + more + `}`
	}
	tests := map[string]struct {
		command, container, config string
		handler                    *book
		absent                     bool // nobody serves
		exit                       int
		want                       string
	}{
		"ADD prints the result in the version asked for": {command: "ADD", container: "a", config: conf(""),
			want: `{"cniVersion":"1.0.0","interfaces":null,"ips":[{"address":"10.42.0.2/32","gateway":"10.42.0.1","interface":0}],"routes":null,"dns":{}}`},
		"an error of ours keeps its code": {command: "ADD", container: "a", config: conf(`,"runtimeConfig":{"portMappings":[{"hostPort":80}]}`), exit: 1,
			want: `{"cniVersion":"1.0.0","code":7,"msg":"host port 80 is taken"}`},
		"any other error is internal": {command: "ADD", container: "a", config: conf(""), handler: &book{given: map[string]bool{"a": true}}, exit: 1,
			want: `{"cniVersion":"1.0.0","code":100,"msg":"given already"}`},
		"DEL prints nothing":              {command: "DEL", container: "a", config: conf("")},
		"CHECK of a known pod is silent":  {command: "CHECK", container: "a", config: conf(""), handler: &book{given: map[string]bool{"a": true}}},
		"CHECK of an unknown pod says so": {command: "CHECK", container: "a", config: conf(""), exit: 1, want: `{"cniVersion":"1.0.0","code":3,"msg":"container a has no address"}`},
		"STATUS needs no container":       {command: "STATUS", config: conf("")},
		"GC needs no container":           {command: "GC", config: conf(`,"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]`)},
		"VERSION is answered though nobody serves": {command: "VERSION", config: `{"cniVersion":"1.0.0"}`, absent: true,
			want: `{"cniVersion":"1.0.0","supportedVersions":["1.0.0","1.1.0"]}`},
		"where nobody serves the runtime should try later": {command: "ADD", container: "a", config: conf(""), absent: true, exit: 1,
			want: `{"cniVersion":"1.0.0","code":11,"msg":"reach the pod network: dial unix ` + socket + `: connect: no such file or directory: is knarr running on this machine?"}`},
		"an old version is refused": {command: "ADD", container: "a", config: `{"cniVersion":"0.2.0"}`, exit: 1,
			want: `{"cniVersion":"0.2.0","code":1,"msg":"CNI version \"0.2.0\" is not supported: use one of [1.0.0 1.1.0]"}`},
		"a configuration without socket is refused": {command: "ADD", container: "a", config: `{"cniVersion":"1.0.0"}`, exit: 1,
			want: `{"cniVersion":"1.0.0","code":7,"msg":"the CNI configuration has no \"socket\": it must name the socket of a running knarr"}`},
		"a missing variable is named": {command: "ADD", config: conf(""), exit: 1,
			want: `{"cniVersion":"1.0.0","code":4,"msg":"ADD needs CNI_CONTAINERID"}`},
		"an unknown command is refused": {command: "MOVE", container: "a", config: conf(""), exit: 1,
			want: `{"cniVersion":"1.0.0","code":4,"msg":"CNI_COMMAND \"MOVE\" is not a command of the specification"}`},
		"what is no JSON is refused": {command: "ADD", container: "a", config: `{`, exit: 1,
			want: `{"cniVersion":"1.1.0","code":6,"msg":"decode the CNI configuration: unexpected end of JSON input"}`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if err := os.RemoveAll(socket); err != nil {
				t.Fatal(err)
			}
			handler := tc.handler
			if handler == nil {
				handler = &book{given: map[string]bool{}}
			}
			if !tc.absent {
				serve(t, socket, handler)
			}
			exit, output := run(tc.command, tc.container, tc.config)
			if diff := cmp.Diff(tc.want, output); diff != "" || exit != tc.exit {
				t.Errorf("exit code %d, want %d; output (-want +got):\n%s", exit, tc.exit, diff)
			}
			if output != "" && !json.Valid([]byte(output)) {
				t.Errorf("output is no JSON: %s", output)
			}
		})
	}
}

func TestASocketOfAKilledProcessIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cni.sock")
	dead, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil { // its file stays, as after kill -9
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket = %v, %v; want mode 0600", info, err)
	}
	serve(t, path, &book{given: map[string]bool{}})
	if exit, output := run("STATUS", "", `{"cniVersion":"1.1.0","socket":"`+path+`"}`); exit != 0 {
		t.Errorf("STATUS = %d, %s", exit, output)
	}
}
