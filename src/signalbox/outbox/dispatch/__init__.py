"""Others' workers: an engine publishes messages that name a delivery, and its workers run what the row says."""
