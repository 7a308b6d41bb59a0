"""From an event to its row: processors, transactions, export and the databases."""
