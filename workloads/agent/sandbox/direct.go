package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// Direct runs runc, except for what takes no runc: starting a container that is made, sending it a signal and taking away
// one that has ended are a few system calls on what runc noted of it. runc itself needs 5 ms of a core for each, and a
// process more, which a machine full of somebody's forks may not have. Whatever is not as simple as it mostly is, and
// every error, is left to runc.
type Direct struct{ runc.ProcessMonitor }

func (d Direct) Start(cmd *exec.Cmd) (chan runc.Exit, error) {
	if direct(cmd.Args) {
		return nil, nil
	}
	return d.ProcessMonitor.Start(cmd)
}

func (d Direct) StartLocked(cmd *exec.Cmd) (chan runc.Exit, error) {
	if direct(cmd.Args) {
		return nil, nil
	}
	return d.ProcessMonitor.StartLocked(cmd)
}

// Wait knows by the missing channel that there was no process.
func (d Direct) Wait(cmd *exec.Cmd, exits chan runc.Exit) (int, error) {
	if exits == nil {
		return 0, nil
	}
	return d.ProcessMonitor.Wait(cmd, exits)
}

// direct does what a runc with these arguments would, and says whether it did. Options come first, and after the command
// at most --all, which runc no longer heeds.
func direct(args []string) bool {
	root, words := "", slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "--all" })
	if i := slices.Index(words, "--root"); i >= 0 && i+1 < len(words) {
		root = words[i+1]
	}
	n := len(words)
	if root == "" || n < 5 {
		return false
	}
	switch {
	case words[n-2] == "start":
		return start(filepath.Join(root, words[n-1]))
	case words[n-2] == "delete":
		return remove(filepath.Join(root, words[n-1]))
	case words[n-3] == "kill":
		number, err := strconv.Atoi(words[n-1])
		return err == nil && signal(filepath.Join(root, words[n-2]), unix.Signal(number))
	}
	return false
}

// noted is the part of runc's state.json that matters here.
type noted struct {
	Pid     int               `json:"init_process_pid"`
	Began   uint64            `json:"init_process_start"`
	Cgroups map[string]string `json:"cgroup_paths"`
	Config  struct {
		Namespaces []struct{ Type, Path string } `json:"namespaces"`
		Hooks      json.RawMessage               `json:"Hooks"`
		IntelRdt   json.RawMessage               `json:"intel_rdt"`
	} `json:"config"`
}

func read(dir string) (noted, error) {
	var s noted
	data, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, err
	}
	if s.Pid <= 1 {
		return s, fmt.Errorf("%s names no process", dir)
	}
	return s, nil
}

// alive: the container's first process is there, and its number is not another's by now.
func (s noted) alive() bool {
	stat, err := statOf(s.Pid)
	return err == nil && stat.began == strconv.FormatUint(s.Began, 10) && !strings.ContainsAny(stat.state, "ZXx")
}

// alone: its processes are in a namespace of their own, so that all go with the first.
func (s noted) alone() bool {
	for _, space := range s.Config.Namespaces {
		if space.Type == "NEWPID" {
			return space.Path == ""
		}
	}
	return false
}

func (s noted) frozen() bool {
	for file, states := range map[string][]string{
		filepath.Join(s.Cgroups["freezer"], "freezer.state"): {"FROZEN", "FREEZING"},
		filepath.Join(s.Cgroups[""], "cgroup.freeze"):        {"1"},
	} {
		if text, err := os.ReadFile(file); err == nil && slices.Contains(states, strings.TrimSpace(string(text))) {
			return true
		}
	}
	return false
}

const (
	fifoName = "exec.fifo"
	// startPatience is far beyond what a process takes that is not frozen. Who waits for runc can give up, which cannot be
	// told here.
	startPatience = 10 * time.Second
)

// start opens the pipe whose other end the container's first process holds: it writes a byte into it, and becomes the
// program.
func start(dir string) bool {
	s, err := read(dir)
	if err != nil || !s.alive() || given(s.Config.Hooks) { // runc calls the hooks of a start
		return false
	}
	path := filepath.Join(dir, fifoName)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	for end := time.Now().Add(startPatience); time.Now().Before(end); {
		alive := s.alive() // before the look: what wrote and died has still begun
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
		var word [1]byte
		if n, err := unix.Read(fd, word[:]); err == nil && n > 0 {
			err := os.Remove(path) // it is by this that runc tells what has begun
			return err == nil || errors.Is(err, os.ErrNotExist)
		}
		if !alive {
			return false
		}
	}
	return false
}

// signal reaches the first process. Where the container shares its processes with others, SIGKILL is for each of them.
func signal(dir string, number unix.Signal) bool {
	s, err := read(dir)
	if err != nil || number == unix.SIGKILL && !s.alone() {
		return false
	}
	fd, err := unix.PidfdOpen(s.Pid, 0) // first, so that it stays the process looked at
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if !s.alive() || unix.PidfdSendSignal(fd, number, nil, 0) != nil {
		return false
	}
	return number != unix.SIGKILL || !s.frozen() // nobody dies frozen under cgroup v1; runc kills again and thaws
}

// remove takes away the cgroups and what runc noted, of a container whose processes are gone.
func remove(dir string) bool {
	s, err := read(dir)
	if err != nil || s.alive() || !s.alone() || given(s.Config.Hooks) || given(s.Config.IntelRdt) {
		return false
	}
	for _, group := range s.Cgroups {
		if err := unix.Rmdir(group); err != nil && !errors.Is(err, unix.ENOENT) {
			return false // groups in it, or processes that are not quite gone
		}
	}
	return os.RemoveAll(dir) == nil
}

func given(raw json.RawMessage) bool {
	return len(raw) > 0 && string(raw) != "null" && string(raw) != "{}"
}
