"""What should exist, as pure functions from a FlashDeployment to manifests, one module per noun."""
