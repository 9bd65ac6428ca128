package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"knarr.dev/knarr/appliance/apiserver/servertest"
)

// options are the flags.
type options struct {
	kubeProxy, only, sizes string
	endpoints, times       int
	rounds                 int
	lift                   bool
	pause, rateFor         time.Duration
}

func benchServices(ctx context.Context, args []string, work string) (err error) {
	var o options
	flags := flag.NewFlagSet("services", flag.ContinueOnError)
	flags.StringVar(&o.kubeProxy, "kube-proxy", "", "a kube-proxy to measure beside ours; the iptables programs it runs are looked for in PATH")
	flags.StringVar(&o.only, "only", "", "measure these alone, in this order, with commas: knarr, nftables, iptables")
	flags.StringVar(&o.sizes, "services", "1,1000,10000", "how many Services there are, with commas")
	flags.IntVar(&o.endpoints, "endpoints", 10, "endpoints of each")
	flags.IntVar(&o.times, "times", 10, "how often a Service is created, and an endpoint changed")
	flags.DurationVar(&o.pause, "pause", 1500*time.Millisecond, "between two changes")
	flags.IntVar(&o.rounds, "rounds", 5, "how often connections are measured, each proxy's rules in turn")
	flags.DurationVar(&o.rateFor, "rate-for", 3*time.Second, "how long connections are counted in a round")
	flags.BoolVar(&o.lift, "lift", false, "take away kube-proxy's limit of one pass a second")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var rows []row
	defer func() { err = errors.Join(err, printServices(rows)) }()
	for text := range strings.SplitSeq(o.sizes, ",") {
		size, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("-services %q: %w", o.sizes, err)
		}
		if err := measureAll(ctx, o, size, filepath.Join(work, text), &rows); err != nil {
			return fmt.Errorf("among %d services: %w", size, err)
		}
	}
	return nil
}

// measureAll fills one API server and shows it to one proxy after the other.
func measureAll(ctx context.Context, o options, size int, dir string, rows *[]row) (err error) {
	server, err := servertest.Start(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	c, err := newCluster(server, o.endpoints)
	if err != nil {
		return err
	}
	if err := c.fill(ctx, size); err != nil {
		return fmt.Errorf("create the services: %w", err)
	}
	var nodes []*node
	defer func() {
		for _, n := range nodes {
			err = errors.Join(err, n.close())
		}
	}()
	first := len(*rows)
	for _, p := range o.contenders() {
		n, err := newNode(c.server.URL)
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
		r, err := measure(ctx, o, c, n, p, dir)
		if err != nil {
			return fmt.Errorf("measure %s: %w", p.name, err)
		}
		*rows = append(*rows, row{size, p.name, r})
		fmt.Printf("%s among %d: installed in %.1f s, a change takes %.1f ms\n", p.name, size, r.install.Seconds(), milliseconds(at(r.change, .5)))
	}
	// The proxies have ended and left their rules, so that connections meet these and nothing else. Turn by turn: what else
	// the machine does changes in minutes, not in seconds.
	for range o.rounds {
		for i, n := range nodes {
			if err := c.connect(ctx, n.client, o.rateFor, &(*rows)[first+i].result); err != nil {
				return fmt.Errorf("connect by the rules of %s: %w", (*rows)[first+i].name, err)
			}
		}
	}
	return nil
}

// connect adds a round to a result.
func (c *cluster) connect(ctx context.Context, from place, during time.Duration, r *result) error {
	if err := rest(ctx, 2*closed); err != nil {
		return err
	}
	err := from.do(func() error {
		open, err := c.connections(2000)
		if err == nil {
			r.open, r.slow = append(r.open, at(open, .5)), append(r.slow, at(open, .99))
		}
		return err
	})
	if err != nil {
		return err
	}
	rate, err := c.rate(from, during)
	r.rates = append(r.rates, rate)
	return err
}

// contenders are those to measure: ours and what flags name.
func (o options) contenders() []contender {
	all := []contender{ours(proxyVerb)}
	if o.kubeProxy != "" {
		for _, mode := range []string{"nftables", "iptables"} {
			all = append(all, kubeProxy(o.kubeProxy, mode, o.lift))
		}
	}
	if o.only == "" {
		return all
	}
	var wanted []contender
	for name := range strings.SplitSeq(o.only, ",") {
		wanted = append(wanted, slices.DeleteFunc(slices.Clone(all), func(c contender) bool { return c.name != name })...)
	}
	return wanted
}

// result is what one proxy did among so many Services.
type result struct {
	install        time.Duration   // from its start until all answered
	installCPU     time.Duration   // and what it worked for that
	create, change []time.Duration // sorted: until a new Service, a new endpoint answered
	changeCPU      time.Duration   // for one change
	memory         int             // KiB
	open, slow     []time.Duration // by round: of one connection, the median and 99 of 100
	rates          []float64       // by round: connections a second
}

// row is a line of the table.
type row struct {
	size int
	name string
	result
}

// limit is how long anything may take.
const limit = 5 * time.Minute

// measure runs a proxy on a node of its own, and leaves its rules there.
func measure(ctx context.Context, o options, c *cluster, n *node, p contender, dir string) (r result, err error) {
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := c.kubeconfig(kubeconfig); err != nil {
		return r, err
	}
	// The probe's one endpoint is what changes: the first connection after it says that it did.
	probe := c.next
	c.next++
	if err := c.create(ctx, probe, 1); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, c.drop(context.WithoutCancel(ctx), probe)) }()

	began := time.Now()
	proxy, err := p.start(ctx, n.self, kubeconfig, dir)
	if err != nil {
		return r, err
	}
	defer proxy.stop()
	err = n.client.do(func() error {
		if err := until(proxy, func() bool { return answersAll(c.some(20)) }); err != nil {
			return fmt.Errorf("wait for all services: %w%s", err, tail(p.log(dir)))
		}
		r.install = time.Since(began)
		r.installCPU = processorTime(proxy.pid)
		if err := rest(ctx, o.pause); err != nil {
			return err
		}
		if r.create, err = c.creations(ctx, o); err != nil {
			return fmt.Errorf("wait for a new service: %w", err)
		}
		before := processorTime(proxy.pid)
		if r.change, err = c.changes(ctx, o, probe); err != nil {
			return fmt.Errorf("wait for a changed endpoint: %w", err)
		}
		r.changeCPU = (processorTime(proxy.pid) - before) / time.Duration(o.times)
		return nil
	})
	r.memory = resident(proxy.pid)
	return r, err
}

// some are addresses of Services, the first and the last among them.
func (c *cluster) some(n int) []netip.Addr {
	all := []netip.Addr{serviceAddr(0), serviceAddr(c.size - 1)}
	for range n {
		all = append(all, c.any())
	}
	return all
}

func (c *cluster) any() netip.Addr { return serviceAddr(rand.IntN(c.size)) }

func answersAll(addrs []netip.Addr) bool {
	return !slices.ContainsFunc(addrs, func(a netip.Addr) bool { _, err := ask(a); return err != nil })
}

// creations times new Services, each from the request until a connection to it is answered.
func (c *cluster) creations(ctx context.Context, o options) (all []time.Duration, err error) {
	for range o.times {
		n := c.next
		c.next++
		began := time.Now()
		if err := c.create(ctx, n, c.endpoints); err != nil {
			return nil, err
		}
		if err := until(ctx, func() bool { return answersAll([]netip.Addr{serviceAddr(n)}) }); err != nil {
			return nil, err
		}
		all = append(all, time.Since(began))
		if err := errors.Join(rest(ctx, o.pause), c.drop(ctx, n), rest(ctx, o.pause)); err != nil {
			return nil, err
		}
	}
	slices.Sort(all)
	return all, nil
}

// changes times new endpoints of one Service, each from the request until it is the one that answers.
func (c *cluster) changes(ctx context.Context, o options, probe int) (all []time.Duration, err error) {
	for i := range o.times {
		to := endpointAddr(probe*c.endpoints + (i+1)%2)
		began := time.Now()
		if err := c.point(ctx, probe, to); err != nil {
			return nil, err
		}
		err := until(ctx, func() bool { who, err := ask(serviceAddr(probe)); return err == nil && who == to })
		if err != nil {
			return nil, err
		}
		all = append(all, time.Since(began))
		if err := rest(ctx, o.pause); err != nil {
			return nil, err
		}
	}
	slices.Sort(all)
	return all, nil
}

// connections times connections to Services at random, one after the other.
func (c *cluster) connections(n int) (all []time.Duration, err error) {
	for range n {
		fd, took, err := dial(c.any(), patient)
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		_ = unix.Close(fd)
		all = append(all, took)
	}
	slices.Sort(all)
	return all, nil
}

// rate counts connections that two clients make.
func (c *cluster) rate(from place, during time.Duration) (float64, error) {
	var done, failed atomic.Int64
	var group sync.WaitGroup
	var errs [2]error
	end := time.Now().Add(during)
	for i := range errs {
		group.Go(func() {
			errs[i] = from.do(func() error {
				for time.Now().Before(end) {
					fd, _, err := dial(c.any(), patient)
					if err != nil {
						failed.Add(1)
						continue
					}
					done.Add(1)
					_ = unix.Close(fd)
				}
				return nil
			})
		})
	}
	group.Wait()
	if n := failed.Load(); n*100 > done.Load() {
		return 0, errors.Join(fmt.Errorf("%d connections failed, %d did not", n, done.Load()), errors.Join(errs[:]...))
	}
	return float64(done.Load()) / during.Seconds(), errors.Join(errs[:]...)
}

// until tries without keeping a processor from those who are to bring it about.
func until(ctx context.Context, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !ok() {
		if err := rest(ctx, 200*time.Microsecond); err != nil {
			return err
		}
	}
	return nil
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func printServices(rows []row) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "services\tproxy\tinstall s\tCPU s\tcreate ms\tmax\tchange ms\tmax\tCPU ms\tMiB\tconnect µs\tp99\tconnections/s\t")
	for _, r := range rows {
		fmt.Fprintf(out, "%d\t%s\t%.2f\t%.2f\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f\t%d\t%.0f\t%.0f\t%.0f\t\n", r.size, r.name,
			r.install.Seconds(), r.installCPU.Seconds(),
			milliseconds(at(r.create, .5)), milliseconds(at(r.create, 1)), milliseconds(at(r.change, .5)), milliseconds(at(r.change, 1)), milliseconds(r.changeCPU),
			r.memory>>10, microseconds(middle(r.open)), microseconds(middle(r.slow)), middle(r.rates))
	}
	fmt.Fprintln(out, "\t\t\t\t\t\t\t\t\t\t\t\t\t")
	for _, r := range rows {
		for i := range r.rates {
			fmt.Fprintf(out, "%d\t%s\tround %d\t\t\t\t\t\t\t\t%.0f\t%.0f\t%.0f\t\n", r.size, r.name, i+1,
				microseconds(r.open[i]), microseconds(r.slow[i]), r.rates[i])
		}
	}
	return out.Flush()
}

// middle is the median.
func middle[T cmp.Ordered](all []T) T { return at(slices.Sorted(slices.Values(all)), .5) }
