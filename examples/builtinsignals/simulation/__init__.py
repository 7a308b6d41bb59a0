"""The parts of demo.py: the site's processes, the visitor, and what the terminal shows."""
