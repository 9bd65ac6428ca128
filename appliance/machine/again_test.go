package machine

import (
	"net"
	"os"
	"os/exec"
	"testing"

	"knarr.dev/knarr/netstack/dns"
)

// heir has this test's binary be the process after, in which the sockets still are.
const heir = "KNARR_TEST_HEIR"

func TestSocketsAreInherited(t *testing.T) {
	if os.Getenv(heir) != "" {
		s := inherit()
		packets, err := net.FilePacketConn(s.Packets)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := net.FileListener(s.Connections); err != nil {
			t.Fatal(err)
		}
		question := make([]byte, 64)
		n, from, err := packets.ReadFrom(question)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := packets.WriteTo(question[:n], from); err != nil {
			t.Fatal(err)
		}
		if again := inherit(); again != (dns.Sockets{}) {
			t.Error("they are inherited twice")
		}
		return
	}
	packets, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	connections, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("udp4", packets.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var s dns.Sockets
	if s.Packets, err = packets.File(); err != nil {
		t.Fatal(err)
	}
	if s.Connections, err = connections.File(); err != nil {
		t.Fatal(err)
	}
	packets.Close()
	connections.Close()
	if _, err := client.Write([]byte("who?")); err != nil { // nobody is there
		t.Fatal(err)
	}

	text, err := bequeath(s)
	if err != nil {
		t.Fatal(err)
	}
	next := exec.Command("/proc/self/exe", "-test.run", "^TestSocketsAreInherited$")
	next.Env = append(os.Environ(), heir+"=1", inheritance+"="+text)
	if out, err := next.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.Close()
	answer := make([]byte, 64)
	if n, err := client.Read(answer); err != nil || string(answer[:n]) != "who?" {
		t.Errorf("answer %q, %v", answer[:n], err)
	}
	if _, err := bequeath(dns.Sockets{}); err == nil {
		t.Error("sockets that are not there are left to somebody")
	}
}
