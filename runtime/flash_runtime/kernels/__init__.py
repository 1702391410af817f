"""The native CPU ops provider: int8, int4 and bf16 matrix kernels and one native call per engine step.

`layout` says how weights lie in memory and needs numpy alone; `provider` needs the compiled module `_native`.
"""
