//go:build tools

// Package stores pins the servers that the tests of model sources ask, as tool dependencies: these
// imports keep their modules in go.mod and go.sum. It is never compiled.
package stores

import (
	_ "github.com/fsouza/fake-gcs-server"
	_ "github.com/versity/versitygw/cmd/versitygw"
)
