"""Continuous traffic against an OpenAI-compatible endpoint: does every stream come through, whole and unchanged, while
something is done to what serves it? Knows the HTTP API and nothing behind it."""
