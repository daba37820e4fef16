"""How results look to people, and as JSON: one file a verb."""
