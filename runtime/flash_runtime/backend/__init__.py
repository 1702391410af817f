"""The engine inside tritonserver's Python backend; the only package that imports triton_python_backend_utils."""
