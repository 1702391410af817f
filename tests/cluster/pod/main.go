// Command pod is what containers run in the tests on a cluster: it answers, asks, and says how asking went.
//
//	pod serve PORT...      an HTTP server on each port that answers every path with the host's name
//	pod dial ADDRESS...    one line for each: open, refused, rejected, unreachable, unknown or silent
//	pod get URL            the answer
//	pod eat                all the memory that it gets
//	pod wait               until it is told to end
//
// Called by the name of a program of ours it stands in for it, as far as a kubelet can tell.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const patience = 3 * time.Second

func main() {
	switch filepath.Base(os.Args[0]) {
	case "flash-engine", "flash-draft":
		serve("8000", "8001", "8002")
	case "flash-gateway":
		serve("8080")
	case "flash-pull", "python": // there is nothing to pull, and nothing to find fault with
	default:
		run(os.Args[1], os.Args[2:])
	}
}

func run(command string, arguments []string) {
	switch command {
	case "serve":
		serve(arguments...)
	case "wait":
		wait()
	case "eat":
		for eaten := []byte{}; ; {
			eaten = append(eaten, make([]byte, 1<<20)...)
			for i := 0; i < len(eaten); i += 4096 {
				eaten[i] = 1
			}
		}
	case "dial":
		dial(arguments)
	case "get":
		client := http.Client{Timeout: patience}
		response, err := client.Get(arguments[0])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		io.Copy(os.Stdout, response.Body)
	default:
		fmt.Fprintln(os.Stderr, "unknown command", command)
		os.Exit(2)
	}
}

func serve(ports ...string) {
	name, _ := os.Hostname()
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, name) })
	for _, port := range ports {
		go func() {
			if err := http.ListenAndServe(":"+port, answer); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}()
	}
	fmt.Println(name, "serves", ports)
	wait()
}

func wait() {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGINT, syscall.SIGTERM)
	<-ends
}

func dial(addresses []string) {
	seen := make([]string, len(addresses))
	var all sync.WaitGroup
	for i, address := range addresses {
		all.Add(1)
		go func() {
			defer all.Done()
			connection, err := net.DialTimeout("tcp", address, patience)
			seen[i] = outcome(err)
			if err == nil {
				connection.Close()
			}
		}()
	}
	all.Wait()
	for _, each := range seen {
		fmt.Println(each)
	}
}

func outcome(err error) string {
	var unknown *net.DNSError
	switch {
	case err == nil:
		return "open"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused" // it was reached, and nobody listens
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EACCES):
		return "rejected" // somebody in between says no
	case errors.Is(err, syscall.ENETUNREACH):
		return "unreachable" // there is no way
	case errors.As(err, &unknown):
		return "unknown"
	default:
		return "silent"
	}
}
