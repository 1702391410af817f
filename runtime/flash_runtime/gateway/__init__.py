"""The OpenAI-compatible API in front of the engines. Imports no engine, model or kernels."""
