"""Django's own test suite, run with Signalbox installed first and recording everything: `make django-suite`."""
