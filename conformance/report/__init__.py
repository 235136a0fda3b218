"""Reports: pure functions of records. HTML for reading, text for a terminal, and the outcome both speak of."""
