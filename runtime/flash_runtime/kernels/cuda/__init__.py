"""The CUDA ops provider: torch for what is small, triton-lang for the int8 linears. Needs the extra `gpu`.

`layout` is numpy alone, `kernel` needs triton-lang, everything else torch too. docs/gpu.md says what was measured.
"""
