"""The contract between the planes: what a FlashDeployment is and what the operator hands to the runtime.

Pydantic and the standard library only, and YAML where manifests are read. Everyone imports this package; it imports
no one.
"""
