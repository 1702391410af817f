// Command etcd is the etcd server as a binary of this module. The upstream main package lives in
// etcd's root module, which pins itself to a checkout of the repository with relative replaces; the
// server module holds everything that main does.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
