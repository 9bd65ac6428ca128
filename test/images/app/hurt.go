package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// hurt is what containers do that are to be kept in their bounds.
func hurt(command string, args []string) error {
	switch command {
	case "fork":
		fork()
	case "eat":
		eat()
	case "fill":
		return fill(arg(args, 0, "/filler"))
	case "shout":
		return shout()
	case "halt":
		if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
			return err
		}
	case "litter":
		return litter(arg(args, 0, "/"))
	case "babble":
		_ = os.WriteFile("/dev/termination-log", bytes.Repeat([]byte("last words "), 1<<20), 0o644) // what fits
		os.Exit(1)
	}
	return sleep("")
}

// fork makes copies of the process that make copies. Their runtime has one thread, and all it does is this call.
func fork() {
	for {
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0); errno != 0 {
			pause := syscall.Timespec{Nsec: int64(50 * time.Millisecond)}
			_, _, _ = syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
		}
	}
}

func eat() {
	for all := []byte{}; ; {
		all = append(all, bytes.Repeat([]byte{1}, 1<<20)...)
		runtime.KeepAlive(all)
	}
}

// fill writes 50 MB a second until there is no room.
func fill(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	block, again := bytes.Repeat([]byte{1}, 1<<20), time.NewTicker(20*time.Millisecond)
	for range again.C {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return nil
}

// shout writes lines as fast as they are taken.
func shout() error {
	w := bufio.NewWriterSize(os.Stdout, 1<<20)
	line := strings.Repeat("x", 999) + "\n"
	for {
		if _, err := w.WriteString(line); err != nil {
			return err
		}
	}
}

// litter makes folders in folders and many small files.
func litter(dir string) error {
	for i := range 200 {
		dir = filepath.Join(dir, "d")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		for k := range 50 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i, "-", k)), []byte("x"), 0o000); err != nil {
				return err
			}
		}
	}
	return sleep("")
}
