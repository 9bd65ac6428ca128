package machine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadOnlyAreasOfTheBinary(t *testing.T) {
	const maps = `00400000-03c9a000 r-xp 00000000 fe:00 12 /usr/local/bin/knarr
03c9a000-088d6000 r--p 0389a000 fe:00 12 /usr/local/bin/knarr
088d6000-08a7d000 rw-p 084d6000 fe:00 12 /usr/local/bin/knarr
c000000000-c008000000 rw-p 00000000 00:00 0
7f0000000000-7f0001000000 r--s 00000000 fe:00 99 /var/lib/knarr/etcd/member/snap/db
7ffd5c1e8000-7ffd5c209000 rw-p 00000000 00:00 0 [stack]
7ffd5c3f4000-7ffd5c3f6000 r-xp 00000000 00:00 0 [vdso]
`
	want := []area{{0x400000, 0x389a000}, {0x3c9a000, 0x4c3c000}}
	if diff := cmp.Diff(want, readOnly(maps, "/usr/local/bin/knarr"), cmp.AllowUnexported(area{})); diff != "" {
		t.Errorf("areas (-want +got):\n%s", diff)
	}
}
