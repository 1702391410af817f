"""The native CPU ops provider: int8 matrix kernels and one native call per engine step."""
