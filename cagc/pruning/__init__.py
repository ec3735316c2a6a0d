"""Pruning: channel scores, budgets, plans, slicing, and generators that run at several widths."""
