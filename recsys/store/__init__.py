"""The shop's database: what shoppers did, what they were shown, and what the service said to each event."""
