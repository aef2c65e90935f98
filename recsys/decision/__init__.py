"""The decision report: everything that is known of a change, in one place, and what to do about it."""
