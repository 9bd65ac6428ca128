package heartbeat

import (
	"crypto/ecdh"
	"crypto/rand"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// world is some machines on a network, and its time.
type world struct {
	t        *testing.T
	now      time.Time
	machines map[string]*machine
	cut      map[[2]string]bool // from, to
	recorded map[string]message // the last one each sent to "a"
	starts   uint64
}

type machine struct {
	*judge
	off   bool // does not run
	phase time.Duration
}

const step = 10 * time.Millisecond

func newWorld(t *testing.T, names ...string) *world {
	w := &world{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), machines: map[string]*machine{}, cut: map[[2]string]bool{}, recorded: map[string]message{}}
	for i, name := range names {
		w.machines[name] = &machine{phase: time.Duration(i) * 60 * time.Millisecond}
	}
	for name := range w.machines {
		w.start(name)
	}
	return w
}

// start a machine's process, which knows nothing.
func (w *world) start(name string) {
	m := w.machines[name]
	w.starts++
	m.judge, m.off = newJudge(w.starts<<50, w.now), false
	for other := range w.machines {
		if other != name {
			m.follow(other, w.now)
		}
	}
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(step) {
		for name, m := range w.machines {
			if (time.Duration(w.now.UnixNano())+m.phase)%interval == 0 && !m.off {
				m.tick(w.now)
				w.beat(name)
			}
		}
	}
}

func (w *world) beat(name string) {
	for to := range w.machines {
		if to != name {
			w.deliver(name, to, w.machines[name].tell(to, false, w.now))
		}
	}
}

func (w *world) deliver(from, to string, m message) {
	if w.cut[[2]string{from, to}] || w.machines[to].off {
		return
	}
	if to == "a" {
		w.recorded[from] = m
	}
	w.machines[to].hear(from, m, w.now)
}

// split cuts the network between two machines, or makes it whole.
func (w *world) split(one, other string, cut bool) {
	w.cut[[2]string{one, other}], w.cut[[2]string{other, one}] = cut, cut
}

func (w *world) sees(name string, want View) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.machines[name].view(w.now)); diff != "" {
		w.t.Errorf("what %s sees (-want +got):\n%s", name, diff)
	}
}

var (
	here    = Presence{Heard: true, Standing: true}
	resting = Presence{Heard: true, Gone: true} // is told so and stands back
	lost    = Presence{Heard: true, Gone: true, Standing: true}
)

func only(name string, p Presence) View {
	return View{Peers: map[string]Presence{name: p}, Settled: true}
}

func TestJudge(t *testing.T) {
	doubted := func(v View) View { v.Doubted = true; return v }
	tests := map[string]func(*testing.T, *world){
		"two who hear each other know it": func(t *testing.T, w *world) {
			w.sees("a", only("b", here))
			w.sees("b", only("a", here))
		},
		"one who falls silent is gone within 0.7 s, and not before two heartbeats could have been lost": func(t *testing.T, w *world) {
			w.machines["b"].off = true
			w.pass(2 * interval)
			w.sees("a", only("b", here))
			w.pass(3 * interval)
			w.sees("a", only("b", lost))
		},
		"one who says goodbye is gone at once": func(t *testing.T, w *world) {
			m := w.machines["b"].tell("a", false, w.now)
			m.flags |= leaving
			w.deliver("b", "a", m)
			w.sees("a", only("b", lost))
		},
		"one who never was heard is not gone, and waited for but a second": func(t *testing.T, w *world) {
			w.machines["b"].off = true
			w.start("a")
			v := only("b", Presence{Standing: true})
			v.Settled = false
			w.sees("a", v)
			w.pass(settling)
			w.sees("a", only("b", Presence{Standing: true}))
		},
		"one who was silent alone is told, stands back, and counts when it has been heard for a while": func(t *testing.T, w *world) {
			w.machines["b"].off = true
			w.pass(time.Second)
			w.start("b")
			w.pass(time.Second)
			w.sees("a", only("b", resting))
			w.sees("b", doubted(only("a", here)))
			w.pass(firstRest)
			w.sees("a", only("b", here))
			w.sees("b", only("a", here))
		},
		"who goes and comes again and again rests longer each time": func(t *testing.T, w *world) {
			for range 2 {
				w.machines["b"].off = true
				w.pass(time.Second)
				w.start("b")
				w.pass(firstRest + time.Second)
			}
			w.sees("a", only("b", resting))
			w.pass(firstRest)
			w.sees("a", only("b", here))
		},
		"a network that was cut and is whole again is forgiven at once by both": func(t *testing.T, w *world) {
			w.split("a", "b", true)
			w.pass(2 * time.Second)
			w.sees("a", only("b", lost))
			w.sees("b", only("a", lost))
			w.split("a", "b", false)
			w.pass(5 * interval)
			w.sees("a", only("b", here))
			w.sees("b", only("a", here))
		},
		"who cannot be answered is as silent as who cannot be heard": func(t *testing.T, w *world) {
			w.cut[[2]string{"a", "b"}] = true
			w.pass(2 * time.Second)
			w.sees("a", only("b", lost))
			w.sees("b", only("a", lost))
		},
		"a machine that did not run for a while blames nobody": func(t *testing.T, w *world) {
			a := w.machines["a"]
			a.off = true
			w.pass(5 * time.Second)
			w.sees("b", only("a", lost))
			a.off = false
			a.tick(w.now)
			w.sees("a", only("b", here))
			w.pass(3 * interval)
			w.sees("a", doubted(only("b", here)))
		},
		"what was recorded keeps nobody alive": func(t *testing.T, w *world) {
			old := w.recorded["b"]
			w.machines["b"].off = true
			for range 20 {
				w.pass(interval / 2)
				w.deliver("b", "a", old)
			}
			w.sees("a", only("b", lost))
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a", "b")
			w.pass(5 * interval)
			test(t, w)
		})
	}
}

func TestOneWhomOnlySomeHaveLostStandsBackForAll(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	w.pass(5 * interval)
	w.split("a", "b", true)
	w.pass(time.Second)
	w.machines["a"].follow("b", w.now) // a has not missed b
	w.split("a", "b", false)
	w.pass(time.Second)
	w.sees("c", View{Settled: true, Peers: map[string]Presence{"a": {Heard: true}, "b": here}})
}

func TestMessages(t *testing.T) {
	key := func() *ecdh.PrivateKey {
		k, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	a, b, c := key(), key(), key()
	between := func(own, peer *ecdh.PrivateKey) seals {
		s, err := newSeals(own, peer.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := message{sent: 1, echo: 1 << 63, flags: counts | serving}
	packet := between(a, b).pack(shortOf(a.PublicKey()), want)
	if from, ok := sender(packet); !ok || from != shortOf(a.PublicKey()) {
		t.Errorf("sender() = %x, %t", from, ok)
	}
	if got, ok := between(b, a).open(packet); !ok || got != want {
		t.Errorf("open() = %+v, %t; want %+v", got, ok, want)
	}
	for name, reader := range map[string]seals{"its sender": between(a, b), "somebody else": between(c, a), "its receiver as another's": between(b, c)} {
		if _, ok := reader.open(packet); ok {
			t.Errorf("a message is believed by %s", name)
		}
	}
	for i := range packet {
		changed := append([]byte(nil), packet...)
		changed[i] ^= 1
		if _, ok := sender(changed); !ok {
			continue
		}
		if _, ok := between(b, a).open(changed); ok {
			t.Errorf("a message whose byte %d was changed is believed", i)
		}
	}
	if _, ok := sender(packet[:len(packet)-1]); ok {
		t.Error("a message that is cut short is one")
	}
}

func TestKeyIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "network", "heartbeat.key")
	first, err := LoadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadKey(path)
	if err != nil || !again.Equal(first) {
		t.Errorf("LoadKey() the second time: another key, or %v", err)
	}
	if public, ok := ParseKey(FormatKey(first.PublicKey())); !ok || !public.Equal(first.PublicKey()) {
		t.Error("a key is another when it was written down")
	}
	for _, text := range []string{"", "no key", "AAAA"} {
		if _, ok := ParseKey(text); ok {
			t.Errorf("%q is taken for a key", text)
		}
	}
}
