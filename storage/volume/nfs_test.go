package volume

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestNFSMount(t *testing.T) {
	tests := map[string]struct {
		options  []string
		readOnly bool
		flags    uintptr
		tries    []string
	}{
		"the newest version is tried first": {tries: []string{
			"vers=4.2,addr=10.0.0.1", "vers=4.1,addr=10.0.0.1", "vers=4.0,addr=10.0.0.1", "vers=3,addr=10.0.0.1,nolock",
		}},
		"a version that is asked for is the only one": {options: []string{"nfsvers=4.1", "hard,timeo=600"}, tries: []string{"vers=4.1,addr=10.0.0.1,hard,timeo=600"}},
		"what the kernel takes as bits is not text": {
			options: []string{"vers=3", "noatime,ro", "_netdev"}, flags: unix.MS_NOATIME | unix.MS_RDONLY, tries: []string{"vers=3,addr=10.0.0.1,nolock"},
		},
		"a volume that is only read is mounted so": {options: []string{"vers=4.2"}, readOnly: true, flags: unix.MS_RDONLY, tries: []string{"vers=4.2,addr=10.0.0.1"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			flags, tries := nfsMount("10.0.0.1", tc.options, tc.readOnly)
			if flags != tc.flags {
				t.Errorf("flags %#x; want %#x", flags, tc.flags)
			}
			if diff := cmp.Diff(tc.tries, tries); diff != "" {
				t.Errorf("tries (-want +got):\n%s", diff)
			}
		})
	}
}
