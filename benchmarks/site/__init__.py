"""The site that `benchmarks/recording.py` measures: with Signalbox, and without."""
