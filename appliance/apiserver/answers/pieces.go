package answers

import (
	"sync"
	"time"
)

const (
	// generation is how many bytes of encoded objects make one; there are two. Two thousand pods fit into one.
	generation = 8 << 20
	// lifetime of a generation that does not fill up.
	lifetime = 15 * time.Second
)

// pieces are encoded objects in two generations. What is used moves to the young one; what is in the old one when the
// young one is full or of age is forgotten.
type pieces struct {
	mu         sync.Mutex
	young, old map[key][]byte
	size       int // of the young ones
	aging      bool
}

// find puts what is kept under the keys into texts, nil for the rest.
func (p *pieces) find(keys []key, texts [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, k := range keys {
		text, ok := p.young[k]
		if !ok {
			if text, ok = p.old[k]; ok {
				p.add(k, text)
			}
		}
		texts[i] = text
	}
}

// keep is for texts that nobody changes any more.
func (p *pieces) keep(texts map[key][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, text := range texts {
		if _, ok := p.young[k]; !ok { // nobody else was faster
			p.add(k, text)
		}
	}
	if !p.aging {
		p.aging = true
		time.AfterFunc(lifetime, p.age)
	}
}

func (p *pieces) add(k key, text []byte) {
	if p.size += len(text); p.size > generation {
		p.turn()
		p.size = len(text)
	}
	if p.young == nil {
		p.young = map[key][]byte{}
	}
	p.young[k] = text
}

func (p *pieces) turn() { p.old, p.young, p.size = p.young, nil, 0 }

// age goes on until nothing is left.
func (p *pieces) age() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn()
	if p.aging = len(p.old) > 0; p.aging {
		time.AfterFunc(lifetime, p.age)
	}
}
