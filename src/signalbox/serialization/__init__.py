"""Any Python value to bounded, redacted JSON, and back."""
