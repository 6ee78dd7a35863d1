"""Prices: the catalogue that ships with modelux, and what it knows."""
