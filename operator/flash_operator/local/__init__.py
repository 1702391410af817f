"""The same plan as plain processes on this machine."""
