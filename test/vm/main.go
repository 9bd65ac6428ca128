// Command vm boots a machine with a kernel of its own under qemu, and has knarr looked at there under cgroup v2; see README.md.
//
// In:       a kernel with its modules, qemu-system-x86_64, bin/knarr.
// Out:      one line for each thing that was looked at; exit code 0 if all is as it should be.
// Promise:  nothing on this machine is changed; what was made for the other one is removed.
// Not here: what is looked at (guest).
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"knarr.dev/knarr/test/images"
)

// wanted are the modules that knarr and this test need of a kernel that has them as such.
var wanted = []string{
	"overlay", "bridge", "br_netfilter", "veth", "vxlan", "dummy", "lzo_rle", "zram", "nf_tables", "nf_conntrack", "nf_nat", "nft_ct", "nft_nat", "nft_masq", "nft_redir",
	"nft_chain_nat", "nft_fib", "nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6", "nft_numgen", "nft_limit", "nft_log", "nft_reject", "nft_reject_inet", "nft_hash",
	"nft_objref", "nft_quota", "nft_socket", "nf_conntrack_netlink",
}

const kubelet = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
podPidsLimit: 300
memorySwap: {swapBehavior: LimitedSwap}
`

func main() {
	kernel := flag.String("kernel", "/", "folder with boot/vmlinuz-VERSION and lib/modules/VERSION")
	knarr := flag.String("knarr", "bin/knarr", "the program to look at")
	limit := flag.Duration("limit", 20*time.Minute, "how long it may take: an emulated processor is some 20 times slower")
	accel := flag.String("accel", accelerator(), "what runs the processor's instructions: kvm or tcg")
	verbose := flag.Bool("v", false, "show the console")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := boot(ctx, *kernel, *knarr, *accel, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

func boot(ctx context.Context, kernel, knarr, accel string, verbose bool) (err error) {
	dir, err := os.MkdirTemp("", "knarr-vm-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	image, modules, err := find(kernel)
	if err != nil {
		return err
	}
	guest := filepath.Join(dir, "guest")
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", guest, "knarr.dev/knarr/test/vm/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest's first process: %w\n%s", err, out)
	}
	app, err := images.WriteApp(ctx, dir)
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "root.cpio")
	if err := pack(root, modules, map[string]string{"init": guest, "knarr": knarr, "app.tar": app}); err != nil {
		return fmt.Errorf("pack the guest's root: %w", err)
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", accel, "-cpu", "max", "-m", "2G", "-smp", "2", "-nographic", "-no-reboot", "-nic", "none",
		"-kernel", image, "-initrd", root, "-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all")
	console, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start qemu: %w (apt-get install qemu-system-x86)", err)
	}
	told := read(console, verbose)
	return errors.Join(told, cmd.Wait(), ctx.Err())
}

func accelerator() string {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		_ = f.Close() // it only had to open
		return "kvm"
	}
	return "tcg"
}

// find the newest kernel in a folder, and its modules that are wanted with those they need, in the order they load.
func find(folder string) (image string, modules []string, err error) {
	kernels, err := filepath.Glob(filepath.Join(folder, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) == 0 {
		return "", nil, fmt.Errorf("no kernel in %s: give the folder of one with -kernel (README.md)", filepath.Join(folder, "boot"))
	}
	image = slices.Max(kernels)
	version := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
	if out, err := exec.Command("depmod", "-b", folder, version).CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("list the modules of %s: %w: %s (apt-get install kmod)", version, err, out)
	}
	base := filepath.Join(folder, "lib", "modules", version)
	list, err := os.ReadFile(filepath.Join(base, "modules.dep"))
	if err != nil {
		return "", nil, err
	}
	needs := map[string][]string{} // by file
	files := map[string]string{}   // by name
	for line := range strings.Lines(string(list)) {
		file, needed, _ := strings.Cut(strings.TrimSpace(line), ":")
		needs[file] = strings.Fields(needed)
		files[strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")] = file
	}
	var add func(file string)
	add = func(file string) {
		for _, needed := range needs[file] {
			add(needed)
		}
		if path := filepath.Join(base, file); !slices.Contains(modules, path) {
			modules = append(modules, path)
		}
	}
	for _, name := range wanted {
		if file := files[name]; file != "" { // the others are part of the kernel
			add(file)
		}
	}
	return image, modules, nil
}

// pack writes a root as a kernel unpacks it: an archive of the kind newc.
func pack(path string, modules []string, programs map[string]string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(f)
	a := archive{out: out}
	for _, dir := range []string{"dev", "modules"} {
		a.add(dir, 0o40755, nil)
	}
	a.device("dev/console", 5, 1)
	var order []string
	for _, module := range modules {
		order = append(order, filepath.Base(module))
		a.file("modules/"+filepath.Base(module), module)
	}
	a.add("modules/order", 0o100644, []byte(strings.Join(order, "\n")))
	a.add("kubelet.yaml", 0o100644, []byte(kubelet))
	for name, from := range programs {
		a.file(name, from)
	}
	a.add("TRAILER!!!", 0, nil)
	return errors.Join(a.err, out.Flush(), f.Close())
}

type archive struct {
	out   io.Writer
	inode int
	err   error
}

func (a *archive) file(name, from string) {
	content, err := os.ReadFile(from)
	a.err = errors.Join(a.err, err)
	a.add(name, 0o100755, content)
}

func (a *archive) add(name string, mode int, content []byte) { a.entry(name, mode, content, 0, 0) }

func (a *archive) device(name string, major, minor int) {
	a.entry(name, 0o20600, nil, major, minor)
}

func (a *archive) entry(name string, mode int, content []byte, major, minor int) {
	a.inode++
	var head bytes.Buffer
	head.WriteString("070701")
	for _, n := range []int{a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name) + 1, 0} {
		fmt.Fprintf(&head, "%08x", n)
	}
	head.WriteString(name)
	head.WriteByte(0)
	for head.Len()%4 != 0 {
		head.WriteByte(0)
	}
	_, err := a.out.Write(head.Bytes())
	_, err2 := a.out.Write(content)
	_, err3 := a.out.Write(make([]byte, (4-len(content)%4)%4))
	a.err = errors.Join(a.err, err, err2, err3)
}

// read the console until it ends, and say what was seen.
func read(console io.Reader, verbose bool) error {
	var last []string
	failed, done, more := 0, false, false
	lines := bufio.NewScanner(console)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		what, found := strings.CutPrefix(line, "VM ")
		switch {
		case found && strings.HasPrefix(what, "done"):
			done = true
		case found:
			more = strings.HasPrefix(what, "failed")
			if more {
				failed++
			}
			fmt.Println(what)
		case verbose || more && line != "":
			fmt.Println("\t" + line)
		}
		if last = append(last, line); len(last) > 30 {
			last = last[1:]
		}
	}
	switch {
	case !done:
		return fmt.Errorf("the machine ended before all was looked at; its console ends with:\n%s", strings.Join(last, "\n"))
	case failed > 0:
		return fmt.Errorf("%d things are not as they should be", failed)
	}
	return lines.Err()
}
