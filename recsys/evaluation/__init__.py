"""What measures: one global time cut, the whole catalogue ranked, intervals on every figure."""
