"""Small values and naming; nothing here needs a database."""
