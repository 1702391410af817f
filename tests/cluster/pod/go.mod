module flashplane.dev/tests/cluster/pod

go 1.24.0
