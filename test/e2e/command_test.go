package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"knarr.dev/knarr/test/lab/lab"
)

// TestKubectlEndsAtASignal: kubectl's proxy knows nothing of signals, so that the usual meaning of one has to end it.
func TestKubectlEndsAtASignal(t *testing.T) {
	binary, err := lab.Binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			cmd := exec.Command(binary, "kubectl", "proxy", "--port=0", "--server=http://127.0.0.1:1")
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(out).ReadString('\n'); !strings.HasPrefix(line, "Starting to serve") {
				t.Errorf("it says %q (%v); want it to serve", line, err)
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Error(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Errorf("runs on after %s", signal)
				_ = cmd.Process.Kill() // to end the test; it is a failure already
				<-ended
			}
		})
	}
}
