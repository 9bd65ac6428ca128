package lab_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"knarr.dev/knarr/test/lab/lab"
)

func TestMachinesReachEachOtherAndTheHostUntilTheirCableIsCut(t *testing.T) {
	l := lab.New(t)
	a, b := l.Machine("a"), l.Machine("b")
	listen := func(m *lab.Machine) string {
		var address string
		if err := m.Do(func() error {
			listener, err := net.Listen("tcp4", net.JoinHostPort(m.IP().String(), "0"))
			if err != nil {
				return err
			}
			t.Cleanup(func() { listener.Close() })
			address = listener.Addr().String()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return address
	}
	onB := listen(b)
	if err := a.Do(dial(onB)); err != nil {
		t.Errorf("machine a reaches machine b: %v", err)
	}
	if err := dial(onB)(); err != nil {
		t.Errorf("the host reaches machine b: %v", err)
	}
	if err := b.Cut(); err != nil {
		t.Fatal(err)
	}
	if err := a.Do(dial(onB)); err == nil {
		t.Error("machine a reaches machine b, whose cable is cut")
	}
	if err := b.Heal(); err != nil {
		t.Fatal(err)
	}
	if err := a.Do(dial(onB)); err != nil {
		t.Errorf("machine a reaches machine b when its cable is back: %v", err)
	}
}

func dial(address string) func() error {
	return func() error {
		conn, err := net.DialTimeout("tcp4", address, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

func TestTheWorldOutsideIsUnreachableAtOnce(t *testing.T) {
	m := lab.New(t).Machine("a")
	start := time.Now()
	if err := m.Do(dial("203.0.113.1:80")); !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("dialling outside = %v, want unreachable", err)
	}
	if out, err := m.Command(t.Context(), "getent", "hosts", "example.com").CombinedOutput(); err == nil {
		t.Errorf("a name outside was resolved: %s", out)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("failing took %v", took)
	}
}

func TestAMachineHasItsOwnNameFilesLinksAndProcesses(t *testing.T) {
	m := lab.New(t).Machine("box")
	out := m.Exec("sh", "-c", "hostname; cat /etc/hostname; ls /sys/class/net; ls -d /sys/fs/cgroup/*; touch /run/x /var/lib/x; cat /proc/self/cgroup")
	lines := strings.Fields(out)
	if got := lines[0] + " " + lines[1]; got != "box box" {
		t.Errorf("hostnames = %q, want box twice", got)
	}
	for _, want := range []string{"eth0", "lo", m.CgroupRoot()} {
		if !strings.Contains(out, want) {
			t.Errorf("the machine does not show %q:\n%s", want, out)
		}
	}
	for _, path := range []string{"/run/x", "/var/lib/x"} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s of the machine appeared on the host", path)
		}
	}
	if _, err := os.Stat(filepath.Join(m.Dir(), "var/lib/x")); err != nil {
		t.Errorf("the machine's /var/lib is not in its folder: %v", err)
	}
	sleeper := m.Command(t.Context(), "sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	go sleeper.Wait()
	pids, err := m.Pids()
	if err != nil || len(pids) != 1 || pids[0] != sleeper.Process.Pid {
		t.Errorf("Pids() = %v, %v; want the one program %d", pids, err, sleeper.Process.Pid)
	}
}

func TestNothingIsLeftOfALab(t *testing.T) {
	var r remains
	t.Run("lab", func(t *testing.T) { r = furnish(t, lab.New(t)) })
	r.check(t)
}

// A test that is killed removes nothing; the next one does.
func TestNothingIsLeftOfALabWhoseTestWasKilled(t *testing.T) {
	if os.Getenv(beKilled) != "" {
		r := furnish(t, lab.New(t))
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	test := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	test.Env = append(os.Environ(), beKilled+"=yes")
	out, err := test.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := test.Start(); err != nil {
		t.Fatal(err)
	}
	var r remains
	decodeErr := json.NewDecoder(out).Decode(&r)
	if err := test.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = test.Wait() // killed, as it says
	if decodeErr != nil {
		t.Fatal(decodeErr)
	}
	if !alive(r.Pid) {
		t.Fatalf("process %d went with the test: there was nothing to sweep", r.Pid)
	}
	if err := lab.Sweep(); err != nil {
		t.Fatal(err)
	}
	r.check(t)
}

const beKilled = "KNARR_LAB_TEST_BE_KILLED"

// remains is what a lab could leave behind.
type remains struct {
	Dir, Cgroup string
	Network     netip.Prefix
	Pid         int
}

// furnish fills a lab.
func furnish(t *testing.T, l *lab.Lab) remains {
	t.Helper()
	m := l.Machine("a")
	// A program that left its parent and its session, as a container's shim does.
	m.Exec("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &")
	pids, err := m.Pids()
	if err != nil || len(pids) != 1 {
		t.Fatalf("Pids() = %v, %v; want one", pids, err)
	}
	return remains{Dir: m.Dir(), Cgroup: m.CgroupRoot(), Network: l.Network(), Pid: pids[0]}
}

func (r remains) check(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(r.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s is still there: %v", r.Dir, err)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*" + r.Cgroup); len(left) > 0 {
		t.Errorf("cgroups are still there: %v", left)
	}
	if alive(r.Pid) {
		t.Errorf("process %d still runs", r.Pid)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		if own, err := netip.ParsePrefix(address.String()); err == nil && own.Masked() == r.Network {
			t.Errorf("address %s is still there", own)
		}
	}
}

// alive says whether a process runs; one that only waits for its parent to notice its end does not.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
