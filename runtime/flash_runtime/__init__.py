"""The data plane: gateway, tritonserver backend and engine. Knows nothing of Kubernetes objects."""
