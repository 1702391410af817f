"""The control plane: watches FlashDeployments and makes what they ask for exist. Knows nothing of models or tokens."""
