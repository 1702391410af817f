"""The chart's tests need Helm and nothing else."""

from helm_plugin import helm

__all__ = ["helm"]
