"""What commands return, and how it is shown: records, the lines of a console, JSON."""
