"""The resources of API version v1alpha1: what users write and read back."""
