// Command build compiles the helpers and packs them for embedding; `make bundle` runs it at the root of the tree.
//
// In:       runc's and containerd's Go modules at the versions go.mod pins, cni/, shim/ and pause/ beside this folder.
// Out:      packaging/bundle/assets/bundle.tar.zst, the same bytes for the same sources and tools, and the programs
// themselves in bin/helpers, for tests.
// Promise:  the old bundle stays until the new one is whole.
// Not here: unpacking (packaging/bundle).
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// program is one helper and how it is compiled: command, -o and where to, args; all in dir.
type program struct {
	name, dir string
	env       []string
	command   []string
	args      []string
}

var programs = []program{
	{
		name: "runc", dir: "packaging/bundle/runc", env: []string{"CGO_ENABLED=1"},
		command: []string{"go", "build"},
		args: []string{"-tags", "seccomp netgo osusergo", "-trimpath",
			"-ldflags", "-s -w -linkmode external -extldflags -static", "github.com/opencontainers/runc"},
	},
	{
		// no_grpc is how containerd builds its own: a shim speaks ttrpc only, and one lives beside every pod.
		name: "containerd-shim-runc-v2", dir: ".", env: []string{"CGO_ENABLED=0"},
		command: []string{"go", "build"},
		args: []string{"-tags", "no_grpc", "-trimpath", "-ldflags", "-s -w",
			"./packaging/bundle/shim"},
	},
	{
		name: "knarr-cni", dir: ".", env: []string{"CGO_ENABLED=0"},
		command: []string{"go", "build"},
		args:    []string{"-trimpath", "-ldflags", "-s -w", "./packaging/bundle/cni"},
	},
	{
		name: "pause", dir: "packaging/bundle/pause",
		command: []string{"gcc", "-Os"},
		args:    []string{"-static", "-s", "-Wall", "-Wextra", "-Werror", "pause.c"},
	},
}

func main() {
	if err := build("packaging/bundle/assets/bundle.tar.zst", "bin/helpers"); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

func build(target, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var packed bytes.Buffer
	zip, err := zstd.NewWriter(&packed, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	files := tar.NewWriter(zip)
	for _, p := range programs {
		path := filepath.Join(dir, p.name)
		if err := p.compile(path); err != nil {
			return fmt.Errorf("build %s: %w", p.name, err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Printf("%-24s %5.1f MiB\n", p.name, float64(len(content))/(1<<20))
		if err := files.WriteHeader(&tar.Header{Name: p.name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := files.Write(content); err != nil {
			return err
		}
	}
	if err := errors.Join(files.Close(), zip.Close()); err != nil {
		return err
	}
	if err := os.WriteFile(target+".new", packed.Bytes(), 0o644); err != nil {
		return err
	}
	fmt.Printf("%-24s %5.1f MiB\n", filepath.Base(target), float64(packed.Len())/(1<<20))
	return os.Rename(target+".new", target)
}

func (p program) compile(path string) error {
	args := append(append(append([]string{}, p.command[1:]...), "-o", path), p.args...)
	cmd := exec.Command(p.command[0], args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}
