package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	pathTimeout = 500 * time.Millisecond // shorter than the kernel's second before it sends a lost SYN again
	pathPace    = 250 * time.Millisecond // from one try to the next, whether or not it has ended: so exact is what is told
)

// path is a way to somewhere, and how it fared. Moments are in ms since 1970.
type path struct {
	Target string // an http URL, or tcp://HOST:PORT
	Want   string // what the answer begins with
	Tried  int64  // when the last try that has ended began
	Since  int64  // when the first answer came after which no try failed; 0 when the last try failed
	Error  string // why it failed
	Never  bool   // nobody may come through here
	Opened int64  // when the first try was made that came through all the same
}

// paths tries what it was told to, each path on its own, until the program ends.
type paths struct {
	mu  sync.Mutex
	all []*path
}

// ServeHTTP takes more paths by POST, all there are by PUT, and tells how all fare.
func (p *paths) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var more []*path
	if r.Method != http.MethodGet {
		if err := json.NewDecoder(r.Body).Decode(&more); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Method == http.MethodPut {
		p.all = nil
	}
	for _, one := range more {
		p.all = append(p.all, one)
		go p.follow(one)
	}
	_ = json.NewEncoder(w).Encode(p.all)
}

// follow begins tries at their pace, no more than two at a time, and takes them down in the order they began.
func (p *paths) follow(one *path) {
	type outcome struct {
		began, ended time.Time
		err          error
	}
	tries, unwanted := make(chan chan outcome), make(chan struct{})
	go func() {
		defer close(unwanted)
		for try := range tries {
			if o := <-try; !p.note(one, o.began, o.ended, o.err) {
				return
			}
		}
	}()
	pace := time.NewTicker(pathPace)
	defer pace.Stop()
	for {
		ended := make(chan outcome, 1)
		go func() {
			began := time.Now()
			err := try(one.Target, one.Want)
			ended <- outcome{began, time.Now(), err}
		}()
		select {
		case tries <- ended:
		case <-unwanted:
			return
		}
		<-pace.C
	}
}

// note takes down how a try ended, if it is still wanted to know.
func (p *paths) note(one *path, began, ended time.Time, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.all, one) {
		return false
	}
	if err == nil && one.Never && one.Opened == 0 {
		one.Opened = began.UnixMilli()
	}
	one.Tried = began.UnixMilli()
	switch {
	case err != nil:
		one.Since, one.Error = 0, err.Error()
	case one.Since == 0:
		one.Since, one.Error = ended.UnixMilli(), ""
	}
	return true
}

// try opens a connection of its own, and asks for the name each time.
func try(target, want string) error {
	at, err := url.Parse(target)
	if err != nil {
		return err
	}
	if at.Scheme == "tcp" {
		conn, err := net.DialTimeout("tcp", at.Host, pathTimeout)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	client := &http.Client{Timeout: pathTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(target)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && !strings.HasPrefix(string(answer), want) {
		err = fmt.Errorf("answered %q", answer)
	}
	return err
}
