package machine

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/dns"
)

// inheritance names the sockets of names' questions to the process that this one becomes. It does not begin like our settings.
const inheritance = "_KNARR_DNS_SOCKETS"

// BeginAnew is this program from its beginning, as the same process: for a service manager it never ended, and for those who
// ask for a name it was only slow.
func (m *Moved) BeginAnew() error {
	environ := os.Environ()
	if text, err := bequeath(m.sockets); err == nil {
		environ = append(environ, inheritance+"="+text)
	}
	if err := syscall.Exec("/proc/self/exe", os.Args, environ); err != nil {
		return fmt.Errorf("begin anew: %w; start knarr again", err)
	}
	return nil // not reached
}

// bequeath has sockets stay open. It comes last, when nothing is started any more that would get them as well.
func bequeath(s dns.Sockets) (text string, err error) {
	var numbers []string
	for _, file := range []*os.File{s.Packets, s.Connections} {
		if file == nil {
			return "", os.ErrClosed
		}
		if _, err := unix.FcntlInt(file.Fd(), unix.F_SETFD, 0); err != nil {
			return "", err
		}
		numbers = append(numbers, strconv.Itoa(int(file.Fd())))
	}
	return strings.Join(numbers, ","), nil
}

// inherit are the sockets that BeginAnew left, none in a process that is not its heir.
func inherit() dns.Sockets {
	text := os.Getenv(inheritance)
	if text == "" || os.Unsetenv(inheritance) != nil {
		return dns.Sockets{}
	}
	var files []*os.File
	for number := range strings.SplitSeq(text, ",") {
		fd, err := strconv.Atoi(number)
		if err != nil || fd < 3 {
			return dns.Sockets{}
		}
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "questions"))
	}
	if len(files) != 2 {
		return dns.Sockets{}
	}
	return dns.Sockets{Packets: files[0], Connections: files[1]}
}
