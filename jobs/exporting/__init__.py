"""Rows as other programs read them: CSV, JSON, Parquet, SQL."""
