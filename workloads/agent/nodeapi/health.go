package nodeapi

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// patience is how long the pods' manager may take to answer; it never waits for anything outside of this process.
const patience = 5 * time.Second

// checkPods is health's "syncloop", as collectors know it from a kubelet: whether somebody looks after the pods. There is no one
// loop here that could stand still, but an actor for each pod, so all of them are asked. The question is one however many
// ask it: a manager that stands still gets no pile of them.
func (s *Server) checkPods(r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	answered := s.asking.DoChan("pods", func() (any, error) {
		s.config.Agent.Pods()
		return nil, nil
	})
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the pods of this node were not answered for within %s: their manager stands still", patience)
	}
}
