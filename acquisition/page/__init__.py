"""The page to watch the night: a process of its own, which reads database and store and asks the server to act."""
