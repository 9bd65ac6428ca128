package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/appliance/apiserver/servertest"
)

const domain = "cluster.local"

// Where resolvers answer, in the bench's own network namespace.
var (
	oursAt    = netip.MustParseAddrPort("127.0.53.1:53")
	coreDNSAt = netip.MustParseAddrPort("127.0.53.2:53")
)

// clients are sockets that ask; each has as many questions on the way as it was told.
const clients = 4

// window is how many questions a client has on the way when it asks as fast as it is answered: enough that a resolver is
// never idle, few enough that none is dropped.
const window = 32

// answered is what a resolver did.
type answered struct {
	name      string
	most      float64         // answers a second, asked as fast as it answers
	cpu       time.Duration   // for one answer at that rate
	took      []time.Duration // sorted, at half of what is asked for
	lost, all int
	memory    int // KiB
}

func benchDNS(ctx context.Context, args []string, work string) (err error) {
	flags := flag.NewFlagSet("dns", flag.ContinueOnError)
	binary := flags.String("coredns", "", "a CoreDNS to measure beside ours")
	size := flags.Int("services", 1000, "how many names there are")
	during := flags.Duration("for", 5*time.Second, "how long each is asked")
	pace := flags.Float64("pace", 15000, "questions a second for the latency")
	if err := flags.Parse(args); err != nil {
		return err
	}
	server, err := servertest.Start(filepath.Join(work, "server"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	c, err := newCluster(server, 1)
	if err != nil {
		return err
	}
	if err := c.fill(ctx, *size); err != nil {
		return fmt.Errorf("create the services: %w", err)
	}
	kubeconfig := filepath.Join(work, "kubeconfig")
	if err := c.kubeconfig(kubeconfig); err != nil {
		return err
	}
	questions, err := c.questions()
	if err != nil {
		return err
	}
	type resolver struct {
		contender
		at netip.AddrPort
	}
	all := []resolver{{ours(resolverVerb), oursAt}}
	if *binary != "" {
		all = append(all, resolver{coreDNS(*binary), coreDNSAt})
	}
	var rows []answered
	defer func() { err = errors.Join(err, printDNS(rows)) }()
	for _, r := range all {
		row, err := measureDNS(ctx, r.contender, r.at, kubeconfig, work, questions, *during, *pace)
		if err != nil {
			return fmt.Errorf("measure %s: %w", r.name, err)
		}
		rows = append(rows, row)
	}
	return nil
}

func measureDNS(ctx context.Context, c contender, at netip.AddrPort, kubeconfig, dir string, questions [][]byte, during time.Duration, pace float64) (row answered, err error) {
	row.name = c.name
	place, err := here()
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, place.ns.Close()) }()
	resolver, err := c.start(ctx, place, kubeconfig, dir)
	if err != nil {
		return row, err
	}
	defer resolver.stop()
	if err := until(resolver, func() bool { return answersEach(at, questions) }); err != nil {
		return row, fmt.Errorf("wait for all names: %w%s", err, tail(c.log(dir)))
	}
	before := processorTime(resolver.pid)
	count, err := flood(at, questions, during)
	if err != nil {
		return row, err
	}
	row.most, row.cpu = float64(count)/during.Seconds(), (processorTime(resolver.pid)-before)/time.Duration(max(count, 1))
	if row.took, row.all, err = paced(at, questions, during, pace); err != nil {
		return row, err
	}
	row.lost, row.memory = row.all-len(row.took), resident(resolver.pid)
	return row, nil
}

// questions for the address of each Service.
func (c *cluster) questions() (all [][]byte, err error) {
	for n := range c.size {
		q := new(dns.Msg)
		q.SetQuestion(serviceName(n)+"."+namespace+".svc."+domain+".", dns.TypeA)
		packed, err := q.Pack()
		if err != nil {
			return nil, err
		}
		all = append(all, packed)
	}
	return all, nil
}

// socket is bare system calls, and one question for every number it can have: what is to be measured is the resolver.
type socket struct {
	fd     int
	asked  [1 << 16]time.Time // by number
	buffer [512]byte
}

func dialDNS(at netip.AddrPort) (*socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	limit := unix.NsecToTimeval(int64(200 * time.Millisecond))
	if err := errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.Connect(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}),
	); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &socket{fd: fd}, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// ask sends one of the questions under a number.
func (s *socket) ask(questions [][]byte, id uint16, since time.Time) error {
	q := questions[rand.IntN(len(questions))]
	var packet [512]byte
	n := copy(packet[:], q)
	packet[0], packet[1] = byte(id>>8), byte(id)
	s.asked[id] = since
	_, err := unix.Write(s.fd, packet[:n])
	return err
}

// answer waits for one and returns its number. None in time is no error of the socket's.
func (s *socket) answer() (id uint16, ok bool, err error) {
	n, err := unix.Read(s.fd, s.buffer[:])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case n < 12 || s.buffer[3]&0xf != dns.RcodeSuccess || s.buffer[7] == 0:
		return 0, false, errors.New("an answer without an address")
	}
	return uint16(s.buffer[0])<<8 | uint16(s.buffer[1]), true, nil
}

// answersEach tells whether every name is answered for.
func answersEach(at netip.AddrPort, questions [][]byte) bool {
	s, err := dialDNS(at)
	if err != nil {
		return false
	}
	defer s.close()
	for i := range questions {
		if s.ask(questions[i:i+1], uint16(i), time.Now()) != nil {
			return false
		}
		if _, ok, err := s.answer(); !ok || err != nil {
			return false
		}
	}
	return true
}

// each runs f for every client side by side.
func each(at netip.AddrPort, f func(*socket) error) error {
	var group sync.WaitGroup
	var errs [clients]error
	for i := range errs {
		group.Go(func() {
			s, err := dialDNS(at)
			if err != nil {
				errs[i] = err
				return
			}
			defer s.close()
			errs[i] = f(s)
		})
	}
	group.Wait()
	return errors.Join(errs[:]...)
}

// flood asks as fast as it is answered, and counts.
func flood(at netip.AddrPort, questions [][]byte, during time.Duration) (int, error) {
	var count atomic.Int64
	end := time.Now().Add(during)
	err := each(at, func(s *socket) error {
		var id uint16
		for onTheWay := 0; time.Now().Before(end); {
			for ; onTheWay < window; onTheWay++ {
				id++
				if err := s.ask(questions, id, time.Time{}); err != nil {
					return err
				}
			}
			_, ok, err := s.answer()
			if err != nil {
				return err
			}
			if !ok { // all that are missing are lost
				onTheWay = 0
				continue
			}
			onTheWay--
			count.Add(1)
		}
		return nil
	})
	return int(count.Load()), err
}

// paced asks so many questions a second, whether or not they are answered, and times answers from when they were due.
func paced(at netip.AddrPort, questions [][]byte, during time.Duration, pace float64) (took []time.Duration, asked int, err error) {
	var mu sync.Mutex
	gap := time.Duration(float64(time.Second) * clients / pace)
	err = each(at, func(s *socket) error {
		var mine []time.Duration
		sent, began := make(chan error, 1), time.Now()
		total := int(during / gap)
		go func() {
			for n := range total {
				due := began.Add(time.Duration(n) * gap)
				time.Sleep(time.Until(due))
				if err := s.ask(questions, uint16(n), due); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for len(mine) < total && time.Since(began) < during+time.Second {
			id, ok, err := s.answer()
			if err != nil {
				return errors.Join(err, <-sent)
			}
			if ok {
				mine = append(mine, time.Since(s.asked[id]))
			}
		}
		mu.Lock()
		took, asked = append(took, mine...), asked+total
		mu.Unlock()
		return <-sent
	})
	slices.Sort(took)
	return took, asked, err
}

func printDNS(rows []answered) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "resolver\tanswers/s\tCPU µs each\tasked at pace\tlost\tp50 ms\tp99 ms\tp99.9 ms\tMiB\t")
	for _, r := range rows {
		fmt.Fprintf(out, "%s\t%.0f\t%.1f\t%d\t%d\t%.2f\t%.2f\t%.2f\t%d\t\n", r.name, r.most, microseconds(r.cpu), r.all, r.lost,
			milliseconds(at(r.took, .5)), milliseconds(at(r.took, .99)), milliseconds(at(r.took, .999)), r.memory>>10)
	}
	return out.Flush()
}
