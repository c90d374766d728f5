"""The gallery of the documentation: every analysis on real data, made by one command."""
