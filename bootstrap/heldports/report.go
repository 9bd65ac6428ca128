// Package heldports is how a node says which ports programs on it hold.
//
// In:       ports, and who has them.
// Out:      the text of an annotation on the node's object, and what it said.
// Promise:  a port that is not mentioned was not looked at: it may be free or not.
// Not here: looking (netstack/listeners), what follows from it (workloads/nodebalancer).
package heldports

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// Annotation is where the report is.
const Annotation = "knarr.dev/held-ports"

// Port of a protocol.
type Port struct {
	Number   int32
	Protocol corev1.Protocol
}

func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Number, p.Protocol) }

// Of are the ports of a service.
func Of(service *corev1.Service) []Port {
	ports := make([]Port, len(service.Spec.Ports))
	for i, p := range service.Spec.Ports {
		ports[i] = Port{p.Port, p.Protocol}
	}
	return ports
}

// Report says of ports whether a program holds them.
type Report map[Port]bool

// String is the annotation's text; the same report has the same text.
func (r Report) String() string {
	words := map[string]string{}
	for port, held := range r {
		words[port.String()] = "free"
		if held {
			words[port.String()] = "held"
		}
	}
	text, _ := json.Marshal(words) // of strings alone
	return string(text)
}

// Says is what a text says of a port. What cannot be read says nothing.
func Says(text string, port Port) (held, known bool) {
	var words map[string]string
	if json.Unmarshal([]byte(text), &words) != nil {
		return false, false
	}
	word := words[port.String()]
	return word == "held", word != ""
}
