package machine

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"knarr.dev/knarr/bootstrap/config"
)

func TestCheckCgroups(t *testing.T) {
	tests := map[string]struct {
		controllers string // of a v2 root; "" means there is none
		self        string
		missing     string // "" means: nothing to complain about
	}{
		"v2 with all controllers is fine":   {controllers: "cpuset cpu io memory pids"},
		"v2 without memory names it":        {controllers: "cpu pids", missing: "no memory cgroup"},
		"v1 with all controllers is fine":   {self: "8:pids:/\n4:memory:/x\n2:cpu,cpuacct:/\n0::/\n"},
		"v1 without cpu and pids names two": {self: "4:memory:/\n0::/\n", missing: "no cpu, pids cgroup"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			self := filepath.Join(dir, "self")
			if err := os.WriteFile(self, []byte(tc.self), 0o600); err != nil {
				t.Fatal(err)
			}
			if tc.controllers != "" {
				if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte(tc.controllers), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := checkCgroups(self, dir)
			if (err == nil) != (tc.missing == "") || err != nil && !strings.Contains(err.Error(), tc.missing) {
				t.Errorf("checkCgroups() = %v; want it to say %q", err, tc.missing)
			}
		})
	}
}

func TestListeners(t *testing.T) {
	table := []byte(`  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000 100 0 0 10 0
   1: 0100007F:192B 0100007F:8A2C 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000 20 4 30 10 -1
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000 100 0 0 10 0
`)
	if diff := cmp.Diff([]string{"4711"}, listening(table, 6443)); diff != "" {
		t.Errorf("listeners on 6443 (-want +got):\n%s", diff)
	}
}

func TestAPortInUseNamesItsUser(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = checkPort(l.Addr().(*net.TCPAddr).Port)
	if err == nil || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("checkPort() = %v; want it to name pid %d", err, os.Getpid())
	}
}

func TestASecondInstanceIsKeptOff(t *testing.T) {
	dir := t.TempDir()
	first, err := takeLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := Holder(dir); err != nil || pid != os.Getpid() {
		t.Errorf("Holder() = %d, %v; want %d", pid, err, os.Getpid())
	}
	if _, err := takeLock(dir); err == nil || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("second takeLock() = %v; want an error that names pid %d", err, os.Getpid())
	}
	first.release()
	if pid, err := Holder(dir); err != nil || pid != 0 {
		t.Errorf("Holder() = %d, %v after release; want 0", pid, err)
	}
	again, err := takeLock(dir)
	if err != nil {
		t.Fatalf("takeLock() after release: %v", err)
	}
	again.release()
}

func TestAStartedMachineNeedsLessSpaceThanANewOne(t *testing.T) {
	dir := t.TempDir()
	fresh := spaceNeeded(dir)
	if err := os.Mkdir(config.Paths{Data: dir}.PKI(), 0o700); err != nil {
		t.Fatal(err)
	}
	if again := spaceNeeded(dir); again >= fresh || again < 64<<20 { // etcd's files have 64 MiB
		t.Errorf("a new machine needs %d bytes and one that ran before %d", fresh, again)
	}
}
