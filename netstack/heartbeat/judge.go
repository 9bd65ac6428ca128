package heartbeat

import "time"

const (
	// interval between heartbeats, and limit of silence: two may be lost on the way and the third be late, and a successor is
	// at work well within a second.
	interval = 150 * time.Millisecond
	limit    = 500 * time.Millisecond
	// settling is how long a machine that has just begun to listen waits for those it has not heard yet.
	settling = time.Second
	// A machine that fell silent and comes back has to be heard without a gap for so long before it counts again, twice as
	// long each time, until it has been steady.
	firstRest = 3 * time.Second
	lastRest  = time.Minute
	steady    = time.Minute
)

// Presence is what is known of another machine by its heartbeats.
type Presence struct {
	Heard    bool // ever; else only others know how it is
	Gone     bool // was heard and fell silent, or has not been back for long enough
	Standing bool // says that it may be chosen
	Serving  bool // says that its API server answers
}

// View is what is known of all of them.
type View struct {
	Peers   map[string]Presence
	Doubted bool // somebody who is heard does not count this machine: it was silent, perhaps without knowing
	Settled bool // all have been heard, or waited for
}

// peer is what a judge remembers of a machine.
type peer struct {
	Presence
	followed time.Time // since when it is listened for
	at       time.Time // it was heard last
	proven   time.Time // for how long a stale message may not replace what it said last
	sent     uint64    // its time then, to be sent back to it
	doubts   bool      // it does not count this machine
	counted  time.Time // since when it is here
	lost     bool      // it was gone before
	forgiven time.Time // it had lost this machine too
	back     time.Time // gone: since when it is heard again; zero while it is silent
	rest     time.Duration
	warned   bool // that it is not heard
}

// judge decides from what is heard, and when, who is here. It has no clock and no socket.
//
//	        first heard                 silent for limit, or leaving
//	unheard ───────────▶ here ─────────────────────────────────────▶ gone
//	                      ▲                                            │
//	                      └── heard without a gap for its rest, or ────┘
//	                          at once if it has lost this machine too
//
// The last is a network that was cut and is whole again: both halves forgive each other, and what they choose is one again.
// A machine that was silent alone is told so (counts), stands back until it counts again, and says that (standing), so
// that those who never missed it choose as the others do.
type judge struct {
	epoch  uint64
	began  time.Time
	ticked time.Time
	peers  map[string]*peer
}

func newJudge(epoch uint64, now time.Time) *judge {
	return &judge{epoch: epoch, began: now, ticked: now, peers: map[string]*peer{}}
}

// stamp is this machine's time.
func (j *judge) stamp(now time.Time) uint64 { return j.epoch + uint64(now.Sub(j.began)) }

// follow begins to listen for a machine, anew if it was known.
func (j *judge) follow(name string, now time.Time) {
	j.peers[name] = &peer{followed: now, Presence: Presence{Standing: true}}
}

func (j *judge) forget(name string) { delete(j.peers, name) }

// hear a message that its seal proves to be a peer's. It counts only if it was made after something this machine said
// lately: one that was recorded and sent again is soon worth nothing.
func (j *judge) hear(name string, m message, now time.Time) {
	p := j.peers[name]
	if p == nil {
		return
	}
	if age := j.stamp(now) - m.echo; m.echo == 0 || age > uint64(limit) {
		// It has not heard this machine yet, or not since its restart: so that it can, it gets back what it said.
		if now.Sub(p.proven) > limit {
			p.sent = m.sent
		}
		return
	}
	if m.sent <= p.sent && now.Sub(p.proven) <= limit {
		return // overtaken, or sent twice
	}
	p.sent, p.proven = m.sent, now
	if m.flags&leaving != 0 {
		j.lose(p, now)
		return
	}
	if !p.Heard {
		p.counted = now
	}
	p.Heard, p.at = true, now
	p.doubts, p.Standing, p.Serving = m.flags&counts == 0, m.flags&standing != 0, m.flags&serving != 0
	if !p.Gone {
		return
	}
	if p.back.IsZero() {
		p.back = now
	}
	too := m.flags&missed != 0
	if too || now.Sub(p.back) >= p.rest {
		p.Gone, p.counted = false, now
	}
	if too {
		p.forgiven = now
	}
}

// lose a peer, or notice that one on its way back is silent again.
func (j *judge) lose(p *peer, now time.Time) {
	p.back = time.Time{}
	if p.Gone || !p.Heard {
		return
	}
	if p.lost && now.Sub(p.counted) < steady {
		p.rest = min(2*p.rest, lastRest)
	} else {
		p.rest = firstRest
	}
	p.Gone, p.lost, p.doubts = true, true, false
}

// tick notices silence. When this machine itself did not run, nobody's silence is counted.
func (j *judge) tick(now time.Time) {
	slept := now.Sub(j.ticked) > limit
	j.ticked = now
	for _, p := range j.peers {
		switch {
		case slept:
			p.at = now
		case p.Heard && now.Sub(p.at) > limit:
			j.lose(p, now)
		}
	}
}

// tell is what to say to a peer.
func (j *judge) tell(name string, served bool, now time.Time) message {
	p := j.peers[name]
	m := message{sent: j.stamp(now), echo: p.sent}
	if !p.Gone {
		m.flags |= counts
	}
	if p.Gone || now.Sub(p.forgiven) < settling { // longer than the peer may take to hear it
		m.flags |= missed
	}
	if !j.doubted() {
		m.flags |= standing
	}
	if served {
		m.flags |= serving
	}
	return m
}

func (j *judge) doubted() bool {
	for _, p := range j.peers {
		if p.Heard && !p.Gone && p.doubts {
			return true
		}
	}
	return false
}

// view of all peers now.
func (j *judge) view(now time.Time) View {
	v := View{Peers: make(map[string]Presence, len(j.peers)), Doubted: j.doubted(), Settled: true}
	for name, p := range j.peers {
		v.Peers[name] = p.Presence
		if !p.Heard && now.Sub(p.followed) < settling {
			v.Settled = false
		}
	}
	return v
}

// unheard names a peer nobody was told about that is not heard though there was time.
func (j *judge) unheard(now time.Time) (names []string) {
	for name, p := range j.peers {
		if !p.Heard && !p.warned && now.Sub(p.followed) > 10*settling {
			p.warned = true
			names = append(names, name)
		}
	}
	return names
}
