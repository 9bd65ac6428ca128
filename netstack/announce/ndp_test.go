package announce

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// asks is a solicitation for a target as the kernel sends it.
func asks(source, target string) []byte {
	from, to := netip.MustParseAddr(source), solicitedNode(netip.MustParseAddr(target))
	frame := advertise(segment{mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, netip.MustParseAddr(target), to, net.HardwareAddr{0x33, 0x33, 0xff, 0, 0, 9}, 0)
	copy(frame[atSource:], from.AsSlice())
	frame[atType] = solicitation
	return frame
}

func TestAnswerNDP(t *testing.T) {
	at := segment{mac: net.HardwareAddr{2, 0, 0, 0, 0, 0xff}}
	mine := map[netip.Addr]bool{netip.MustParseAddr("2001:db8::9"): true}
	changed := func(frame []byte, at int, to byte) []byte { frame[at] = to; return frame }
	tests := map[string]struct {
		frame      []byte
		receiver   string // of the answer; "" is none
		mac, flags string
	}{
		"a question for ours is answered to who asks":                           {asks("2001:db8::1", "2001:db8::9"), "2001:db8::1", "020000000001", "60"},
		"who checks that it is free tells nobody who they are, so all are told": {asks("::", "2001:db8::9"), "ff02::1", "333300000001", "20"},
		"others' addresses are theirs":                                          {frame: asks("2001:db8::1", "2001:db8::8")},
		"a packet that was forwarded is no neighbour's":                         {frame: changed(asks("2001:db8::1", "2001:db8::9"), atHopLimit, 254)},
		"an advertisement asks for nothing":                                     {frame: changed(asks("2001:db8::1", "2001:db8::9"), atType, advertisement)},
		"nor does another protocol":                                             {frame: changed(asks("2001:db8::1", "2001:db8::9"), atNextHeader, unix.IPPROTO_UDP)},
		"what is cut short is no question":                                      {frame: asks("2001:db8::1", "2001:db8::9")[:solicitSize-1]},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := answerNDP(tc.frame, at, mine)
			if tc.receiver == "" || got == nil {
				if (got == nil) != (tc.receiver == "") {
					t.Fatalf("answerNDP() = %x; want an answer to %q", got, tc.receiver)
				}
				return
			}
			receiver, _ := netip.AddrFromSlice(got[atReceiver:atType])
			target, _ := netip.AddrFromSlice(got[atTarget:solicitSize])
			text := []string{receiver.String(), target.String(), hex.EncodeToString(got[:6]), hex.EncodeToString(got[atType+4 : atType+5]), hex.EncodeToString(got[solicitSize:])}
			if diff := cmp.Diff([]string{tc.receiver, "2001:db8::9", tc.mac, tc.flags, "0201" + "0200000000ff"}, text); diff != "" {
				t.Errorf("answerNDP() (-want +got):\n%s", diff)
			}
		})
	}
}

// The sum over a message that has its checksum is that of one that is right (RFC 1071).
func TestChecksum(t *testing.T) {
	frame := announcementNDP(segment{mac: net.HardwareAddr{2, 0, 0, 0, 0, 0xff}}, netip.MustParseAddr("2001:db8::9"))
	if got := checksum([16]byte(frame[atSource:]), [16]byte(frame[atReceiver:]), frame[atType:]); got != 0 {
		t.Errorf("the rest of the checksum is %#x", got)
	}
}

func TestSolicitedNode(t *testing.T) {
	if got, want := solicitedNode(netip.MustParseAddr("4037::01:800:200e:8c6c")), netip.MustParseAddr("ff02::1:ff0e:8c6c"); got != want { // the RFC's example
		t.Errorf("solicitedNode() = %s; want %s", got, want)
	}
}
