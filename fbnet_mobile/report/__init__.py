"""What commands return, and how it is shown."""
