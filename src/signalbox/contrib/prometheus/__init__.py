"""Metrics of recording and of durable receivers for Prometheus."""
