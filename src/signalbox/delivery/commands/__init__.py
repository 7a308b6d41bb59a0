"""What ``manage.py signalbox`` does for durable receivers."""
