"""Records events from Django's signals, model writes, requests, commands and tests."""
