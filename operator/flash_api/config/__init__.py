"""The configuration files by which the operator tells the runtime what to do."""
