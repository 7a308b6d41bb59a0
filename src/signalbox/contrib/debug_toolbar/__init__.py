"""A panel for django-debug-toolbar: the signals of a request. See ``SignalboxPanel``."""
