"""Which channels a student keeps: scores, budgets, plans, slicing, and generators at several widths."""
