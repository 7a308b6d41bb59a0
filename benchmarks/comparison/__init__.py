"""Compares Signalbox with other packages that record changes: what each stores, what it costs, how much it takes."""
