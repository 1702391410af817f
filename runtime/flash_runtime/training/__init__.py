"""Makes Flash families: a dense teacher carved into a sparse student, distilled, with a small draft beside it.

What needs torch says so in its docstring and imports it when it runs; the rest is NumPy. Knows models and engines;
knows no server.
"""
