package heldports

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestWhatIsSaidIsHeard(t *testing.T) {
	http, dns := Port{80, corev1.ProtocolTCP}, Port{53, corev1.ProtocolUDP}
	text := Report{http: true, dns: false}.String()
	for name, c := range map[string]struct {
		text        string
		port        Port
		held, known bool
	}{
		"a port a program holds":                 {text, http, true, true},
		"a free one":                             {text, dns, false, true},
		"the same number of another protocol":    {text, Port{80, corev1.ProtocolUDP}, false, false},
		"a node that has said nothing":           {"", http, false, false},
		"a text that somebody else wrote there":  {"80", http, false, false},
		"a node that has nothing to say anymore": {Report{}.String(), http, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			if held, known := Says(c.text, c.port); held != c.held || known != c.known {
				t.Errorf("Says(%q, %s) = %t, %t; want %t, %t", c.text, c.port, held, known, c.held, c.known)
			}
		})
	}
}
