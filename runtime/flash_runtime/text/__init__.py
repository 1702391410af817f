"""Token ids from text and back, and chat templates. Knows no HTTP and no engine."""
