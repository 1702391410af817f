"""Where the planned objects live: the protocol, the real Kubernetes API, and a cluster in a dict."""
