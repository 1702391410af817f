//go:build tools

// Package hermetic pins the programs of a Kubernetes control plane as tool dependencies: these imports
// keep their modules in go.mod and go.sum. It is never compiled.
package hermetic

import (
	_ "go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
