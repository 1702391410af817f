"""Continuous batching: which sequences run next, and the loop that runs them. No HTTP, no Kubernetes, no tokenizer."""
