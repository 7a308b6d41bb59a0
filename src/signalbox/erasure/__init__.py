"""Erasing a person's data from the event log: who is selected, what is replaced, and the writes."""
