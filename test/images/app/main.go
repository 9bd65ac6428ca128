// Command app is what the tests and the demo run in containers: a small server and the few tools a test needs where
// no shell exists.
//
//	app serve [PORT]          HTTP: / who answered, /env, /read?file=F, /ready and /fail turn readiness, /exit?code=N,
//	                          /paths takes connections to try without pause, and tells how they fare (paths.go)
//	app udp [PORT]            answers each datagram with its host name
//	app sleep [SECONDS]       default: until SIGTERM
//	app stubborn              ignores SIGTERM
//	app burn                  uses all the CPU time there is
//	app exit CODE [MESSAGE]   writes MESSAGE to stdout and the termination log
//	app get URL               prints the body; exit 1 on an error or a status of 400 and above
//	app ask HOST:PORT TEXT    one UDP question, prints the answer
//	app lookup NAME [SRV]     addresses, a line each
//	app read FILE...          prints files
//	app write FILE TEXT
//	app env                   prints the environment
//	app id                    uid, gid, groups
//	app echo TEXT...          prints its arguments
//	app cat                   copies stdin to stdout
//
// and, to be kept in bounds (hurt.go):
//
//	app fork                  copies itself without end
//	app eat                   takes all memory
//	app fill FILE             writes 50 MB a second
//	app shout                 writes lines to stdout as fast as they are taken
//	app halt                  stops itself (SIGSTOP)
//	app litter DIR            folders in folders, and 10,000 small files
//	app babble                writes 11 MB of last words and fails
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fatal(fmt.Errorf("usage: app COMMAND"))
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fatal(err)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "app:", err)
	os.Exit(1)
}

func arg(args []string, i int, other string) string {
	if i < len(args) {
		return args[i]
	}
	return other
}

func run(command string, args []string) error {
	switch command {
	case "serve":
		return serve(arg(args, 0, "8080"))
	case "udp":
		return udp(arg(args, 0, "8080"))
	case "sleep":
		return sleep(arg(args, 0, ""))
	case "stubborn":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
		fmt.Println("not going anywhere")
		for { // an empty select would be a deadlock to the Go runtime
			time.Sleep(time.Hour)
		}
	case "burn": // all the CPU time there is
		for {
			runtime.Gosched()
		}
	case "exit":
		return exit(arg(args, 0, "0"), arg(args, 1, ""))
	case "get":
		return get(arg(args, 0, ""))
	case "ask":
		return ask(arg(args, 0, ""), arg(args, 1, ""))
	case "lookup":
		return lookup(arg(args, 0, ""), arg(args, 1, ""))
	case "read":
		for _, name := range args {
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Print(string(content))
		}
		return nil
	case "write":
		return os.WriteFile(arg(args, 0, ""), []byte(arg(args, 1, "")), 0o644)
	case "env":
		env := os.Environ()
		sort.Strings(env)
		fmt.Println(strings.Join(env, "\n"))
		return nil
	case "id":
		groups, err := os.Getgroups()
		fmt.Println(os.Getuid(), os.Getgid(), groups)
		return err
	case "echo":
		fmt.Println(strings.Join(args, " "))
		return nil
	case "cat":
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	case "fork", "eat", "fill", "shout", "halt", "litter", "babble":
		return hurt(command, args)
	default:
		return fmt.Errorf("unknown command %q", command)
	}
}

func stopped() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
}

func serve(port string) error {
	ctx, cancel := stopped()
	defer cancel()
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	var unready atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s %s\n", host, os.Getenv("APP_VERSION"))
	})
	mux.HandleFunc("/client", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.RemoteAddr) })
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, strings.Join(os.Environ(), "\n")) })
	mux.HandleFunc("/read", func(w http.ResponseWriter, r *http.Request) {
		content, err := os.ReadFile(r.FormValue("file"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(content)
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if unready.Load() {
			http.Error(w, "told to fail", http.StatusServiceUnavailable)
		}
	})
	mux.Handle("/paths", &paths{})
	mux.HandleFunc("/fail", func(http.ResponseWriter, *http.Request) { unready.Store(true) })
	mux.HandleFunc("/ready", func(http.ResponseWriter, *http.Request) { unready.Store(false) })
	mux.HandleFunc("/exit", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		os.Exit(code)
	})
	fmt.Println("serving on", port)
	server := &http.Server{Addr: ":" + port, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { <-ctx.Done(); _ = server.Close() }()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return nil
}

func udp(port string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	buffer := make([]byte, 2048)
	for {
		_, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo([]byte(host+"\n"), from); err != nil {
			return err
		}
	}
}

func sleep(seconds string) error {
	ctx, cancel := stopped()
	defer cancel()
	if seconds == "" {
		<-ctx.Done()
		return nil
	}
	n, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(n * float64(time.Second))):
	}
	return nil
}

func exit(code, message string) error {
	n, err := strconv.Atoi(code)
	if err != nil {
		return err
	}
	if message != "" {
		fmt.Println(message)
		if err := os.WriteFile("/dev/termination-log", []byte(message), 0o644); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	os.Exit(n)
	return nil
}

func get(url string) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

func ask(address, text string) error {
	conn, err := net.DialTimeout("udp", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(text)); err != nil {
		return err
	}
	answer := make([]byte, 2048)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	fmt.Print(string(answer[:n]))
	return nil
}

func lookup(name, kind string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if strings.EqualFold(kind, "SRV") {
		_, records, err := net.DefaultResolver.LookupSRV(ctx, "", "", name)
		for _, r := range records {
			fmt.Println(r.Target, r.Port)
		}
		return err
	}
	addresses, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil {
		return err
	}
	sort.Strings(addresses)
	fmt.Println(strings.Join(addresses, "\n"))
	return nil
}
