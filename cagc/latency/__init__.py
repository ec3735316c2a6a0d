"""How long a generator and each of its layers take, and how long they would take at other widths."""
