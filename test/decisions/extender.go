package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"
)

// extender is asked by the scheduler about the nodes that passed its own filters.
type extender struct {
	server *http.Server
	at     net.Listener

	mu     sync.Mutex
	refuse map[types.UID]bool // pods that are not to be placed
	seen   chan comparison
}

// comparison is what the scheduler would compare for a pod.
type comparison struct {
	pod   types.UID
	nodes []string
}

func listen() (*extender, error) {
	at, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the scheduler's questions: %w", err)
	}
	e := &extender{at: at, refuse: map[types.UID]bool{}, seen: make(chan comparison, 1000)}
	e.server = &http.Server{Handler: http.HandlerFunc(e.answer), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = e.server.Serve(at) }() // until close
	return e, nil
}

func (e *extender) url() string { return "http://" + e.at.Addr().String() }

func (e *extender) close() { _ = e.server.Close() }

// hold says that a pod is only looked at.
func (e *extender) hold(pod types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refuse[pod] = true
}

func (e *extender) answer(w http.ResponseWriter, r *http.Request) {
	var args extenderv1.ExtenderArgs
	if err := json.NewDecoder(r.Body).Decode(&args); err != nil || args.Pod == nil || args.NodeNames == nil {
		http.Error(w, "not a question about a pod and nodes by name", http.StatusBadRequest)
		return
	}
	e.mu.Lock()
	held := e.refuse[args.Pod.UID]
	e.mu.Unlock()
	select {
	case e.seen <- comparison{args.Pod.UID, *args.NodeNames}:
	default: // nobody waits for it any more
	}
	result := extenderv1.ExtenderFilterResult{NodeNames: args.NodeNames}
	if held {
		result.NodeNames = &[]string{}
		result.FailedNodes = extenderv1.FailedNodesMap{}
		for _, n := range *args.NodeNames {
			result.FailedNodes[n] = "only looked at"
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(result) // who asked is gone, then
}
