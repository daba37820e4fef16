"""Places to keep objects, all behind one small protocol."""
