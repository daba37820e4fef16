"""Finding the rows of a subject in everything that is kept, and writing it anew without them."""
