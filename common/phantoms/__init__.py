"""Invented data, each in the layout that its real data set is distributed in."""
