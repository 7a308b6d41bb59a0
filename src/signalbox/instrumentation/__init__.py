"""From Django to events: signals, model writes, requests, commands and tests."""
