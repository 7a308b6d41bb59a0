"""Dispatchers run deliveries with other workers: each publishes messages with ids, and its workers run the rows."""
