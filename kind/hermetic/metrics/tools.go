//go:build tools

// Package metrics pins metrics-server as a tool dependency, in a module of its own: it is built from other versions of
// Kubernetes' libraries than the control plane. It is never compiled.
package metrics

import (
	_ "sigs.k8s.io/metrics-server/cmd/metrics-server"
)
