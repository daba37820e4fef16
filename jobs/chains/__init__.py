"""Reading what a base and the changes after it say of rows, as of a moment."""
